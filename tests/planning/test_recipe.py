from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from voxfit.core.errors import RecordError
from voxfit.planning.recipes import Adam, Plateau, PolynomialDecay, Recipe

RECIPE = Recipe()
assert isinstance(RECIPE.schedule, Plateau)
assert isinstance(RECIPE.optimizer, Adam)
SCHEDULE, ADAM = RECIPE.schedule, RECIPE.optimizer
PLANES, VOLUMES = RECIPE.augmentation_2d, RECIPE.augmentation_3d
STAGE = RECIPE.previous_stage_augmentation


STATEMENTS: dict[str, dict[str, list[object]]] = {
    "T1": {"5-fold": [RECIPE.folds]},
    "T3": {
        "3e-4": [SCHEDULE.learning_rate],
        "weight decay 3e-5": [ADAM.weight_decay],
        "AMSGrad": [ADAM.amsgrad],
        "250 training batches": [RECIPE.steps_per_epoch],
        "50 validation batches": [RECIPE.validation_steps],
    },
    "T2": {"smoothing 1e-5": [RECIPE.dice_smoothing]},
    "T4": {
        "0.93 and 0.9 on the old value": [SCHEDULE.train_loss_ema, SCHEDULE.val_loss_ema],
        "at least 5e-3 within 30": [SCHEDULE.min_delta, SCHEDULE.patience],
        "learning rate / 5": [round(1 / SCHEDULE.factor, 9)],
        "within 60 epochs": [SCHEDULE.stop_patience],
        "learning rate < 1e-6": [SCHEDULE.stop_below],
        "1000 epochs at most": [SCHEDULE.epochs],
    },
    "T5": {
        "3D +-15 degrees": [VOLUMES.rotation_degrees],
        "2D +-180, or +-15": [PLANES.rotation_degrees, PLANES.stretched_rotation_degrees],
        "0.85 to 1.25": [*PLANES.scale],
        "0-900 in 3D, 0-200 in 2D, Gaussian 9-13 voxels": [
            *VOLUMES.elastic_amplitude, *PLANES.elastic_amplitude, *VOLUMES.elastic_sigma,
        ],
        "0.7 to 1.5": [*PLANES.gamma],
        "0.2 each": [PLANES.rotation_probability],
        "0.3 gamma": [PLANES.gamma_probability],
        "0.5 per mirrored axis": [PLANES.mirror_probability],
    },
    "T7": {
        "probability 0.4, radius 1-8": [STAGE.morphology_probability, *STAGE.radius],
        "probability 0.2, only those of less than 15 %": [
            STAGE.removal_probability, round(100 * STAGE.removal_share, 9),
        ],
    },
}  # fmt: skip
"""What the paper says, in the words of docs/method.md, and what the default recipe has there."""

NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?")


@pytest.mark.parametrize("tag", STATEMENTS)
def test_the_default_has_the_papers_numbers(tag: str) -> None:
    for words, found in STATEMENTS[tag].items():
        said = [float(number) for number in NUMBER.findall(re.sub(r"\b[23]D\b", "", words.replace("5-fold", "5 fold")))]
        assert found == ([True] if words == "AMSGrad" else said), words


@pytest.mark.parametrize("tag", STATEMENTS)
def test_the_method_says_so(tag: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / "method.md").read_text()
    statement = text[text.index(f"- **[{tag}]**") :].split("\n- ")[0]
    for words in STATEMENTS[tag]:
        assert words in " ".join(statement.split())


def test_both_sets_of_augmentation_share_what_the_paper_says_once() -> None:
    shared = {"scale", "elastic_sigma", "gamma", "intensity"} | {
        key for key in PLANES.model_fields_set if "prob" in key
    }
    assert VOLUMES.model_dump(include=shared) == PLANES.model_dump(include=shared)
    assert VOLUMES.stretched_rotation_degrees == VOLUMES.rotation_degrees
    assert PLANES.scale_probability == PLANES.elastic_probability == PLANES.rotation_probability
    assert PLANES.intensity is None
    assert Recipe.from_json(RECIPE.to_json()) == RECIPE


def test_another_schedule_survives_its_file() -> None:
    recipe = Recipe(name="quick", schedule=PolynomialDecay(learning_rate=0.01, seconds=60.0))
    assert Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        ({"folds": 1}, ["folds", "greater than or equal to 2"]),
        ({"steps_per_epoch": 0}, ["steps_per_epoch"]),
        ({"seed": -1}, ["seed"]),
        ({"schedule": {"kind": "cosine"}}, ["schedule", "cosine"]),
        (
            {"schedule": {"kind": "polynomial", "learning_rate": 0.1}},
            ["schedule.polynomial", "either epochs or seconds"],
        ),
        (
            {"schedule": {"kind": "polynomial", "learning_rate": 0.1, "epochs": 3, "seconds": 5.0}},
            ["schedule.polynomial", "either epochs or seconds"],
        ),
        ({"augmentation_2d": {"rotation_degrees": 10.0}}, ["augmentation_2d.elastic_amplitude", "required"]),
    ],
    ids=str,
)
def test_nonsense_is_named(change: dict[str, Any], fragments: list[str]) -> None:
    body = json.loads(Recipe().to_json()) | change
    with pytest.raises(RecordError) as caught:
        Recipe.from_json(json.dumps(body), "quick.json")
    for fragment in ["quick.json", *fragments]:
        assert fragment in str(caught.value)

from __future__ import annotations

import json
from typing import Any

import pytest

from voxfit.core.errors import RecordError
from voxfit.planning.recipe import Annealed, Plateau, Recipe


def test_the_default_is_the_paper() -> None:
    recipe = Recipe()
    assert isinstance(recipe.schedule, Plateau)
    assert (recipe.folds, recipe.steps_per_epoch) == (5, 250)
    schedule = recipe.schedule
    assert (schedule.learning_rate, schedule.drop, schedule.drop_patience, schedule.stop_patience) == (
        3e-4,
        0.2,
        30,
        60,
    )
    assert (schedule.improvement, schedule.stop_below) == (5e-3, 1e-6)
    assert recipe.augmentation_3d.rotation_degrees == 15
    assert recipe.augmentation_2d.rotation_degrees == 180
    assert recipe.augmentation_2d.gamma == recipe.augmentation_3d.gamma == (0.7, 1.5)
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_another_schedule_survives_its_file() -> None:
    recipe = Recipe(name="quick", schedule=Annealed(learning_rate=0.01, seconds=60.0))
    assert Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        ({"folds": 1}, ["folds", "greater than or equal to 2"]),
        ({"steps_per_epoch": 0}, ["steps_per_epoch"]),
        ({"seed": -1}, ["seed"]),
        ({"schedule": {"kind": "cosine"}}, ["schedule", "cosine"]),
        ({"schedule": {"kind": "annealed", "learning_rate": 0.1}}, ["schedule.annealed", "either epochs or seconds"]),
        (
            {"schedule": {"kind": "annealed", "learning_rate": 0.1, "epochs": 3, "seconds": 5.0}},
            ["schedule.annealed", "either epochs or seconds"],
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

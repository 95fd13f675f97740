"""Plans of every planner as records, from the published geometry of the Decathlon."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builders.records import case_of, fingerprint_of
from voxfit.core.errors import RecordError
from voxfit.planning.fingerprint import Fingerprint, load_fingerprint
from voxfit.planning.grid import ClipAndScale, Divide, UnitRange, ZScore
from voxfit.planning.intensities import Intensities
from voxfit.planning.plan import PAPER, Limits, Plan
from voxfit.planning.planners import PLANNERS, plan_by, plan_origin
from voxfit.planning.recipes import SGD, PolynomialDecay, Recipe, recipe_named

TASKS = ("BrainTumour", "Heart", "Liver", "Hippocampus", "Prostate", "Lung", "Pancreas")


def facts(*channels: str, cropped: int = 80) -> Fingerprint:
    intensities = {"CT": Intensities(percentile_00_5=-9, percentile_99_5=99, mean=5, standard_deviation=7, voxels=3)}
    case = case_of((cropped, 90, 70), (2.0, 1.0, 1.0), (80, 90, 70))
    return fingerprint_of((case,) * 20, channels, intensities=tuple(intensities.get(name) for name in channels))


@pytest.mark.parametrize("task", TASKS)
def test_the_records_say_what_nnunet_published(decathlon: Path, task: str) -> None:
    path = decathlon / f"Dataset{TASKS.index(task) + 1:03d}_{task}.json"
    published = json.loads(path.read_text())
    plan = plan_by("nnunet-v2", load_fingerprint(path))
    assert ("3d_lowres" in plan.configurations) == published["nnunet_v2_has_lowres"]
    for ours, theirs in (("2d", "nnunet_v2_2d"), ("3d", "nnunet_v2_3d_fullres")):
        configuration = plan.configurations[ours]
        assert list(configuration.patch_size) == published[theirs]["patch_size"]
        assert configuration.batch_size == published[theirs]["batch_size"]
        assert configuration.spacing == pytest.approx(published[theirs]["spacing"], rel=1e-5)


@pytest.mark.parametrize("planner", PLANNERS)
def test_every_plan_is_a_record_that_a_network_can_be_built_from(planner: str, tmp_path: Path) -> None:
    plan = plan_by(planner, facts("MRI"))
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    assert (plan.planner, plan.inputs_digest) == (planner, plan_origin(planner, facts("MRI"), Limits()))
    for name, configuration in plan.configurations.items():
        topology = plan.topology(name)
        assert all(edge % step == 0 for edge, step in zip(configuration.patch_size, topology.divisor, strict=True))
        assert (topology.block == "residual") == ("resenc" in planner)
        narrow = configuration.with_width(8)
        narrowed = plan.model_copy(update={"configurations": {name: narrow}}).topology(name)
        assert narrowed.features[0] == 8
        assert narrowed.strides == topology.strides
        assert all(configuration.why.get(key) for key in ("spacing", "patch_size", "batch_size", "num_pool", "dice"))


def test_planners_differ_and_so_do_their_digests() -> None:
    origins = {plan_origin(planner, facts("MRI"), Limits()) for planner in PLANNERS}
    assert len(origins) == len(PLANNERS)
    assert plan_origin(PAPER, facts("MRI", cropped=40), Limits()) not in origins
    assert plan_origin(PAPER, facts("MRI"), Limits(base_features=8)) not in origins


def test_slices_keep_their_own_spacing() -> None:
    plan = plan_by("nnunet-v2", facts("MRI"))
    assert plan.configurations["2d"].spacing_mm == (None, 1.0, 1.0)
    assert plan.grid("2d").spacing_of((7.0, 3.0, 3.0)) == (7.0, 1.0, 1.0)
    assert plan.grid("2d").folder == "anyx1x1"


def test_channels_are_normalised_by_their_names() -> None:
    names = ("CT", "T1", "noNorm", "rescale_to_0_1", "rgb_to_0_1", "zscore")
    found = plan_by("nnunet-v2", facts(*names, cropped=40)).normalization
    assert found == (
        ClipAndScale(lower=-9, upper=99, mean=5, standard_deviation=7),
        ZScore(inside_mask=True),
        Divide(by=1.0),
        UnitRange(),
        Divide(by=255.0),
        ZScore(inside_mask=True),
    )


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "slices"),
    [
        ((20, 256, 256), (5.0, 1.0, 1.0), True),
        ((256, 20, 256), (1.0, 5.0, 1.0), True),
        ((64, 64, 64), (1.0, 1.0, 1.0), False),
        ((80, 128, 128), (2.0, 1.0, 1.0), False),
        ((256, 256, 20), (1.0, 1.0, 1.0), False),  # short along x, but no axis is coarse
    ],
)
def test_slices_of_a_coarse_short_axis_are_transformed_one_by_one(
    shape: tuple[int, ...], spacing_mm: tuple[float, ...], slices: bool
) -> None:
    """nnU-Net v2's dummy 2D augmentation: the patch more than three times longer than along its coarsest axis."""
    case = case_of(shape, spacing_mm)
    plan = plan_by("nnunet-v2", facts("MRI").model_copy(update={"cases": (case,) * 20}))
    assert plan.configurations["3d"].augmentation == ("2d_slices" if slices else "3d")


def test_cases_are_brought_to_the_grid_as_nnunet_v2_does() -> None:
    """Its order of normalisation and resampling, ANISO_THRESHOLD = 3, and resample_segmentation per class."""
    preparation = plan_by("nnunet-v2", facts("MRI")).preparation
    assert (preparation.first, preparation.coarse_axis_ratio, preparation.labels) == ("normalize", 3, "linear")


def test_recipes_by_name() -> None:
    assert recipe_named(PAPER) == Recipe()
    for planner in list(PLANNERS)[1:]:
        recipe = recipe_named(planner)
        assert recipe.planner == planner
        # nnU-Net v2.8, nnUNetTrainer: initial_lr, weight_decay, num_epochs, num_iterations_per_epoch and
        # num_val_iterations_per_epoch; SGD with momentum 0.99; PolyLRScheduler's exponent 0.9, a step an epoch;
        # clip_grad_norm_ at 12.
        schedule = recipe.schedule
        assert isinstance(schedule, PolynomialDecay)
        assert (schedule.learning_rate, schedule.power, schedule.epochs) == (0.01, 0.9, 1000)
        assert (schedule.every, schedule.warmup_steps) == ("epoch", 0)
        assert (recipe.steps_per_epoch, recipe.validation_steps) == (250, 50)
        assert recipe.max_grad_norm == 12
        assert isinstance(recipe.optimizer, SGD)
        assert (recipe.optimizer.momentum, recipe.optimizer.weight_decay) == (0.99, 3e-5)
        assert Recipe.from_json(recipe.to_json()) == recipe


def test_a_planner_is_added_by_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def small(fingerprint: Fingerprint, limits: Limits) -> Plan:
        return PLANNERS[PAPER](fingerprint, limits.revised(base_features=4))

    with pytest.raises(RecordError, match=r"planner.*there is no such planner; there are nnunet-2018, nnunet-v2"):
        Recipe().revised(planner="small")
    monkeypatch.setitem(PLANNERS, "small", small)
    recipe = recipe_named("small")
    plan = plan_by(recipe.planner, facts("MRI"))
    assert (plan.planner, plan.topology("3d").features[0]) == ("small", 4)
    assert recipe == Recipe().revised(name="small", planner="small")

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from builders.records import case_of, fingerprint_of
from voxfit.planning.fingerprint import CaseFingerprint, Fingerprint, load_fingerprint
from voxfit.planning.grid import ClipAndScale, MissingCTStatistics, ZScore
from voxfit.planning.intensities import Intensities
from voxfit.planning.plan import Configuration, ConfigurationName, Limits
from voxfit.planning.planners import plan_by
from voxfit.planning.planners.paper import Extent, make_plan, plan_configurations

TASKS = ("BrainTumour", "Heart", "Liver", "Hippocampus", "Prostate", "Lung", "Pancreas")
FIELDS = ("patch_size", "batch_size", "num_pool", "median_shape")

Configurations = dict[ConfigurationName, Configuration]


# Table 1 of the paper


def row(table: dict[str, Any], task: str) -> dict[str, Any]:
    (found,) = [row for row in table["rows"] if row["task"].endswith(f"_{task}")]
    return dict(found)


def half_up(shape: Sequence[int], spacing: Sequence[float]) -> Callable[[Sequence[float]], tuple[int, ...]]:
    """Scales the printed median shape.

    It was rounded for print, so what is a median of whole numbers in the data is a half here: the 482 slices of the
    liver would be 120.5 at a quarter of the resolution, where the table has 121. Half to even (which the real shapes
    need, and `Fingerprint` does) would give 120.
    """
    return lambda coarser: tuple(
        math.floor(size * old / new + 0.5) for size, old, new in zip(shape, spacing, coarser, strict=True)
    )


def assert_as_printed(configurations: Configurations, printed: dict[str, dict[str, Any]]) -> None:
    # The table has the two stages of the cascade as one: stage 2 is the 3D U-Net.
    offered = {*printed, "3d_cascade"} if "3d_lowres" in printed else {*printed}
    assert set(configurations) == offered
    for name, expected in printed.items():
        configuration = configurations[name]  # type: ignore[index]
        found = configuration.model_dump(mode="json", include=set(FIELDS))
        assert found == {field: expected[field] for field in FIELDS}, name
    if "3d_cascade" in configurations:
        both = [configurations[name].model_dump(include=set(FIELDS)) for name in ("3d", "3d_cascade")]
        assert both[0] == both[1]


@pytest.mark.parametrize("task", TASKS)
def test_table_1_comes_out_of_its_own_median_shapes(table_1: dict[str, Any], task: str) -> None:
    printed = row(table_1, task)
    spacing = tuple(float(value) for value in printed["median_spacing"])
    extent = Extent(spacing, printed["num_training_cases"], half_up(printed["median_shape"], spacing))
    assert_as_printed(plan_configurations(extent, Limits()), printed["configurations"])


@pytest.mark.parametrize(("number", "task"), list(enumerate(TASKS, 1)))
def test_table_1_comes_out_of_the_real_cases(decathlon: Path, table_1: dict[str, Any], number: int, task: str) -> None:
    fingerprint = load_fingerprint(decathlon / f"Dataset{number:03d}_{task}.json")
    printed = row(table_1, task)
    assert len(fingerprint.cases) == printed["num_training_cases"]
    assert len(fingerprint.channel_names) == (2 if task == "Prostate" else 4 if task == "BrainTumour" else 1)
    plan = make_plan(fingerprint)
    assert_as_printed(plan.configurations, printed["configurations"])
    assert plan.num_cases == printed["num_training_cases"]


@pytest.mark.parametrize(
    ("number", "task", "kinds", "masked"),
    [
        # [P2] 36 % and 72.5 % of the voxels are left by cropping; of the prostates 99.7 %.
        (1, "BrainTumour", [ZScore] * 4, True),
        (2, "Heart", [ZScore], True),
        (5, "Prostate", [ZScore] * 2, False),
        (4, "Hippocampus", [ZScore], False),
        # Published without intensities: shapes can be planned.
        (3, "Liver", [MissingCTStatistics], None),
    ],
)
def test_how_the_decathlon_is_normalised(
    decathlon: Path, number: int, task: str, kinds: list[type], masked: bool | None
) -> None:
    plan = make_plan(load_fingerprint(decathlon / f"Dataset{number:03d}_{task}.json"))
    assert [type(item) for item in plan.normalization] == kinds
    assert all(item.inside_mask == masked for item in plan.normalization if isinstance(item, ZScore))


# Rules


def fingerprint(
    cases: Sequence[CaseFingerprint], channels: Sequence[tuple[str, Intensities | None]] = (("MRI", None),), **more: Any
) -> Fingerprint:
    names, intensities = zip(*channels, strict=True)
    return fingerprint_of(cases, names, intensities=intensities, **more)


spacings = st.sampled_from([0.5, 1.0, 2.5]) | st.floats(0.01, 100)
many_cases = st.lists(
    st.builds(case_of, st.tuples(*[st.integers(1, 1500)] * 3), st.tuples(spacings, spacings, spacings)),
    min_size=1,
    max_size=5,
)
small_limits = st.just(Limits()) | st.builds(
    Limits, voxel_budget=st.integers(512, 10**6), cascade_factor=st.integers(1, 8), min_batch_size=st.integers(1, 3)
)


@given(many_cases, small_limits)
# The smallest allowed is the share, too.
@example([case_of((58, 769, 1089), (0.5, 0.5, 0.5))], Limits(min_batch_size=3))
@settings(max_examples=200)
def test_what_is_offered_and_why(cases: list[CaseFingerprint], limits: Limits) -> None:
    facts = fingerprint(cases)
    plan = make_plan(facts, limits)
    configurations = plan.configurations
    spacing, shape = facts.median_spacing_mm(), facts.median_shape_at(facts.median_spacing_mm())
    large = math.prod(shape) > limits.cascade_factor * limits.voxel_budget
    assert set(configurations) == {"2d", "3d"} | ({"3d_lowres", "3d_cascade"} if large else set())

    assert plan.grid("2d") == plan.grid("3d")
    assert configurations["2d"].slice_axis == spacing.index(max(spacing))
    assert configurations["3d"].spacing == spacing
    assert configurations["3d"].median_shape == shape
    for name, configuration in configurations.items():
        # Over the batch for 2D, and where there is a cascade for all but its first stage [T2].
        batchwise = name == "2d" or (large and name != "3d_lowres")
        assert configuration.dice == ("batch" if batchwise else "sample")
        # Slice by slice where the patch is stretched [T6].
        if name != "2d":
            stretched = max(configuration.patch_size) > 2 * min(configuration.patch_size)
            assert configuration.augmentation == ("2d_slices" if stretched else "3d")
        assert configuration.batch_size >= limits.min_batch_size
        assert_reasons_hold(configuration, limits)
    if large:
        assert_cascade(configurations, facts, limits)


def assert_reasons_hold(configuration: Configuration, limits: Limits) -> None:
    """`why` has a reason for each number, and says of patch and batch what is so."""
    assert {"spacing", "patch_size", "num_pool", "batch_size", "dice"} <= set(configuration.why)
    whole = all(edge >= size for edge, size in zip(configuration.patch_size, configuration.median_shape, strict=True))
    assert ("padded so that it can be pooled" in configuration.why["patch_size"]) == whole
    reason = configuration.why["batch_size"]
    budget = limits.plane_voxels if configuration.dimension == 2 else 2 * limits.voxel_budget
    fits = budget // math.prod(configuration.patch_size)
    if reason.startswith("the smallest allowed"):
        assert configuration.batch_size == limits.min_batch_size
    elif "voxels hold" in reason:
        assert configuration.batch_size == fits
    else:
        assert "of the dataset's voxels" in reason
        assert configuration.batch_size <= fits


def assert_cascade(configurations: Configurations, facts: Fingerprint, limits: Limits) -> None:
    full, low, second = (configurations[name] for name in ("3d", "3d_lowres", "3d_cascade"))
    assert second.previous == "3d_lowres"
    assert full.previous is low.previous is None
    assert second.model_dump(exclude={"previous", "why"}) == full.model_dump(exclude={"previous", "why"})
    assert low.median_shape == facts.median_shape_at(low.spacing)
    most = limits.cascade_factor * limits.voxel_budget
    assert math.prod(low.median_shape) <= most
    doublings = [math.log2(coarse / fine) for coarse, fine in zip(low.spacing, full.spacing, strict=True)]
    assert all(count == round(count) >= 0 for count in doublings)
    # The fine axes catch up first: they never stay behind by more, and never overtake by a whole doubling.
    ratio = max(full.spacing) / min(full.spacing)
    assert max(low.spacing) / min(low.spacing) <= max(ratio, 1)
    # One step less was still too large: undo the last one, which doubled all axes, or only those that were fine.
    halved = [value / 2 if count else value for value, count in zip(low.spacing, doublings, strict=True)]
    assert math.prod(facts.median_shape_at(halved)) > most


@given(st.lists(st.tuples(st.just(1), st.integers(1, 900), st.integers(1, 900)), min_size=1, max_size=5))
def test_pictures_have_one_network(shapes: list[tuple[int, ...]]) -> None:
    plan = make_plan(fingerprint([case_of(shape) for shape in shapes], dimension=2))
    assert set(plan.configurations) == {"2d"}
    plane = plan.configurations["2d"]
    assert plane.slice_axis == 0
    assert all(edge >= size for edge, size in zip(plane.patch_size, plane.median_shape, strict=True))


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((1, 1, 1), (1.0, 1.0, 1.0)),
        ((1, 1, 100_000), (1.0, 1.0, 1.0)),
        ((2, 3, 5), (1e-6, 1.0, 1e6)),
        ((3000, 3000, 3000), (1e-6, 1e6, 1.0)),
        ((100_000, 100_000, 100_000), (0.001, 0.001, 0.001)),
    ],
)
def test_extreme_volumes_are_planned(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    plan = make_plan(fingerprint([case_of(shape, spacing)]))
    for name, configuration in plan.configurations.items():
        assert min(configuration.patch_size) >= 1
        if name != "2d":
            assert math.prod(configuration.patch_size) <= 128**3


def test_a_small_machine_gets_a_small_patch() -> None:
    limits = Limits(voxel_budget=32**3, plane_voxels=64 * 64, max_pool_3d=2, base_features=4, max_features_3d=16)
    plan = make_plan(fingerprint([case_of((100, 100, 100))] * 20), limits)
    assert plan.limits == limits
    three = plan.configurations["3d"]
    assert (three.patch_size, three.num_pool, three.batch_size) == ((32, 32, 32), (2, 2, 2), 2)
    assert (three.base_features, three.max_features) == (4, 16)


MEASURED = Intensities(percentile_00_5=-1.0, percentile_99_5=5.0, mean=2.0, standard_deviation=0.5, voxels=10)


@pytest.mark.parametrize(("kept", "masked"), [(2, True), (3, True), (4, False)])
def test_normalisation_of_each_channel(kept: int, masked: bool) -> None:
    cases = [case_of((kept, 5, 5), uncropped_shape=(4, 5, 5))]
    plan = make_plan(fingerprint(cases, [("CT", MEASURED), ("MRI", None), ("ct", None)]))
    assert plan.normalization == (
        ClipAndScale(lower=-1.0, upper=5.0, mean=2.0, standard_deviation=0.5),
        ZScore(inside_mask=masked),
        MissingCTStatistics(),
    )


def test_a_constant_ct_is_not_divided_by_zero() -> None:
    constant = MEASURED.model_copy(update={"standard_deviation": 0.0})
    (item,) = make_plan(fingerprint([case_of((8, 8, 8))], [("CT", constant)])).normalization
    assert isinstance(item, ClipAndScale)
    assert item.standard_deviation > 0


def test_a_plan_knows_what_it_was_made_from() -> None:
    facts = fingerprint([case_of((50, 50, 50))])
    origin = plan_by("nnunet-2018", facts).inputs_digest
    assert (
        plan_by("nnunet-2018", facts.model_copy(update={"inputs_digest": "another time stamp"})).inputs_digest == origin
    )
    assert plan_by("nnunet-2018", facts, Limits(base_features=8)).inputs_digest != origin
    assert plan_by("nnunet-2018", fingerprint([case_of((50, 50, 51))])).inputs_digest != origin

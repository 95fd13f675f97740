from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from voxfit.core.errors import RecordError
from voxfit.imaging.labels import Label, Labels
from voxfit.planning.architecture import paper_stages
from voxfit.planning.fingerprint import CaseFingerprint, Fingerprint
from voxfit.planning.intensities import Intensities
from voxfit.planning.plan import Configuration, Limits, Plan
from voxfit.planning.planners.paper import make_plan


@pytest.fixture
def plan() -> Plan:
    """A plan with all four configurations: CT and another channel, two classes."""
    return make_plan(
        Fingerprint(
            dataset="Test",
            channel_names=("CT", "PET"),
            labels=Labels(classes=(Label(name="liver", value=1), Label(name="tumour", value=3))),
            cases=(CaseFingerprint(shape=(90, 400, 400), uncropped_shape=(90, 512, 512), spacing_mm=(3.0, 0.8, 0.8)),)
            * 12,
            intensities=(
                Intensities(percentile_00_5=-17.0, percentile_99_5=201.0, mean=99.4, standard_deviation=39.4, voxels=9),
                None,
            ),
            single_component_labels=(1,),
        )
    )


def test_a_plan_survives_its_file(plan: Plan, tmp_path: Path) -> None:
    assert set(plan.configurations) == {"2d", "3d", "3d_lowres", "3d_cascade"}
    plan.save(tmp_path / "plan.json")
    again = Plan.load(tmp_path / "plan.json")
    assert again == plan
    assert again.digest() == plan.digest()


def test_the_file_has_what_the_command_line_promises(plan: Plan) -> None:
    body = json.loads(plan.to_json())
    for name, configuration in body["configurations"].items():
        assert {"spacing", "median_shape", "patch_size", "batch_size", "num_pool"} <= set(configuration), name


Path_ = tuple[str | int, ...]


def edited(plan: Plan, path: Path_, value: JsonValue) -> str:
    """The JSON form with one value replaced (`...` removes the key)."""
    body: Any = json.loads(plan.to_json())
    place = body
    for step in path[:-1]:
        place = place[step]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(body)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("configurations", "3d", "batch_size"), 4, lambda plan: plan.configurations["3d"].batch_size == 4),
        (
            ("configurations", "3d", "patch_size"),
            [32, 64, 64],
            lambda plan: plan.configurations["3d"].patch_size[0] == 32,
        ),
        (("configurations", "2d"), ..., lambda plan: "2d" not in plan.configurations),
        (("configurations", "2d", "max_features"), None, lambda plan: max(plan.topology("2d").features) > 480),
    ],
)
def test_sensible_edits_are_taken(plan: Plan, path: Path_, value: JsonValue, words: Callable[[Plan], bool]) -> None:
    assert words(Plan.from_json(edited(plan, path, value)))


@pytest.mark.parametrize(
    ("path", "value", "fragments"),
    [
        (("configurations", "3d", "batch_size"), 0, ["configurations.3d.batch_size", "greater than 0"]),
        (("configurations", "3d", "batch_size"), "two", ["configurations.3d.batch_size", "two"]),
        (("configurations", "3d", "batch_size"), 2.5, ["configurations.3d.batch_size", "2.5"]),
        (("configurations", "2d", "patch_size", 1), 0, ["configurations.2d.patch_size.1"]),
        (("configurations", "3d", "patch_size", 1), 41, ["configurations.3d", "41", "multiple"]),
        (("configurations", "3d", "patch_size"), [64, 64], ["configurations.3d", "patch_size", "same 2 or 3 axes"]),
        (("configurations", "3d", "patch_size"), 64, ["configurations.3d.patch_size"]),
        (("configurations", "3d", "num_pool", 0), -1, ["configurations.3d.num_pool.0"]),
        (("configurations", "3d", "num_pool", 0), 60, ["configurations.3d.num_pool.0"]),
        (("configurations", "3d", "num_pool"), ..., ["configurations.3d.num_pool", "required"]),
        (("configurations", "3d", "spacing", 2), 0.0, ["configurations.3d.spacing.2"]),
        (("configurations", "3d", "spacing", 2), float("nan"), ["configurations.3d.spacing.2"]),
        (("configurations", "3d", "spacing", 2), float("inf"), ["configurations.3d.spacing.2"]),
        (("configurations", "3d", "bacth_size"), 2, ["configurations.3d.bacth_size", "not permitted"]),
        (("configurations", "3d", "dice"), "both", ["configurations.3d.dice", "both"]),
        (("configurations", "3d", "previous"), "5d", ["configurations.3d.previous", "5d"]),
        (("configurations", "3d", "slice_axis"), 0, ["configurations.3d", "slice_axis"]),
        (("configurations", "2d", "slice_axis"), None, ["configurations.2d", "slice_axis"]),
        (("configurations", "2d", "slice_axis"), 3, ["configurations.2d.slice_axis"]),
        (("configurations", "4d"), {}, ["configurations.4d"]),
        (("configurations",), {}, ["configurations"]),
        (("configurations",), ..., ["configurations", "required"]),
        (("configurations", "3d_lowres"), ..., ["configurations", "3d_cascade", "3d_lowres"]),
        (("configurations", "3d_lowres", "previous"), "3d_cascade", ["configurations", "3d_lowres", "3d_cascade"]),
        (("normalization", 0, "kind"), "min_max", ["normalization.0", "min_max"]),
        (("normalization", 0, "standard_deviation"), 0.0, ["normalization.0", "standard_deviation"]),
        (("normalization",), [], ["normalization", "channel"]),
        (("labels", "classes", 0, "value"), "1", ["labels.classes.0.value"]),
        (("limits", "voxel_budget"), 0, ["limits.voxel_budget"]),
        (("num_cases",), 0, ["num_cases"]),
        (("schema",), "voxfit.plan/99", ["schema", "voxfit.plan/99"]),
    ],
    ids=str,
)
def test_nonsense_is_named(plan: Plan, tmp_path: Path, path: Path_, value: JsonValue, fragments: list[str]) -> None:
    file = tmp_path / "plan.json"
    file.write_text(edited(plan, path, value))
    with pytest.raises(RecordError) as caught:
        Plan.load(file)
    for fragment in [str(file), *fragments]:
        assert fragment in str(caught.value)


def test_configurations_with_one_grid_share_it(plan: Plan) -> None:
    assert plan.grid("3d") == plan.grid("3d_cascade")
    assert plan.grid("2d").spacing_mm == plan.grid("3d").spacing_mm == (3.0, 0.8, 0.8)
    assert plan.grid("3d_lowres") != plan.grid("3d")


def test_networks_see_the_channels_and_the_classes_of_the_previous_stage(plan: Plan) -> None:
    assert {name: plan.topology(name).in_channels for name in plan.configurations} == {
        "2d": 2,
        "3d": 2,
        "3d_lowres": 2,
        "3d_cascade": 2 + 2,
    }
    for name, configuration in plan.configurations.items():
        topology = plan.topology(name)
        assert topology.out_channels == 3
        assert topology.divisor == tuple(2**count for count in configuration.num_pool)
        assert max(topology.features) <= (480 if name == "2d" else 320)
        assert all(edge % step == 0 for edge, step in zip(configuration.patch_size, topology.divisor, strict=True))


pools = st.lists(st.integers(0, 6), min_size=2, max_size=3).map(tuple)


@given(pools, st.integers(1, 64), st.none() | st.integers(1, 512))
def test_levels_double_features_and_halve_what_is_left(num_pool: tuple[int, ...], base: int, most: int | None) -> None:
    stages = paper_stages(num_pool, base, most)
    for axis, count in enumerate(num_pool):
        along = [stride[axis] for stride in stages.strides]
        # [N4] The axis with fewer poolings has them last.
        assert along == [1] * (1 + max(num_pool) - count) + [2] * count
        assert stages.divisor[axis] == math.prod(along)
    assert stages.features == tuple(min(base * 2**level, most or math.inf) for level in range(max(num_pool) + 1))


def test_the_coarse_axis_of_the_prostate_waits_for_the_fine_ones() -> None:
    stages = paper_stages((2, 5, 5), 30, 320)
    assert list(stages.strides[1:]) == [(1, 2, 2)] * 3 + [(2, 2, 2)] * 2
    assert stages.features == (30, 60, 120, 240, 320, 320)


@given(st.integers(0, 2))
def test_a_slice_stands_in_the_volume(axis: int) -> None:
    configuration = Configuration(
        spacing=(0.5, 0.7),
        median_shape=(60, 50),
        patch_size=(64, 56),
        batch_size=2,
        num_pool=(3, 3),
        base_features=30,
        max_features=480,
        dice="batch",
        augmentation="2d",
        slice_axis=axis,
        slice_spacing=5.0,
    )
    spacing, patch = [0.5, 0.7], [64, 56]
    spacing.insert(axis, 5.0)
    patch.insert(axis, 1)
    assert configuration.spacing_mm == tuple(spacing)
    assert configuration.patch_box == tuple(patch)
    assert configuration.dimension == 2


def test_the_constants_are_those_of_the_paper() -> None:
    limits = Limits()
    assert limits.voxel_budget == 128**3
    assert limits.plane_voxels == 256 * 256 * 42
    assert (limits.max_pool_2d, limits.max_pool_3d, limits.base_features) == (6, 5, 30)
    assert (limits.dataset_fraction, limits.min_batch_size, limits.cascade_factor) == (0.05, 2, 4)

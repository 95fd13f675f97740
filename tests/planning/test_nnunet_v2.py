from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from builders.records import case_of, fingerprint_of
from voxfit.imaging.labels import Label, Labels
from voxfit.planning.fingerprint import CaseFingerprint, Fingerprint, load_fingerprint
from voxfit.planning.planners.nnunet_v2_networks import (
    PRESETS,
    NetworkRule,
    Preset,
    count_elements,
    divide,
    divisor,
    plan_networks,
    target_spacing,
)

PLAIN, MEDIUM, LARGE, HUGE = PRESETS.values()
TASKS = ("BrainTumour", "Heart", "Liver", "Hippocampus", "Prostate", "Lung", "Pancreas")
CLASSES = 3


def fingerprint(cases: Sequence[CaseFingerprint], **more: Any) -> Fingerprint:
    labels = tuple(Label(name=f"class {value}", value=value) for value in range(1, CLASSES))
    return fingerprint_of(cases, labels=Labels(classes=labels), **more)


# What nnU-Net v2 published


@pytest.mark.parametrize(("number", "task"), list(enumerate(TASKS, 1)))
def test_the_decathlon_is_planned_as_published(decathlon: Path, number: int, task: str) -> None:
    path = decathlon / f"Dataset{number:03d}_{task}.json"
    published = json.loads(path.read_text())
    rules = plan_networks(load_fingerprint(path), PLAIN)
    full, plane = rules["3d"], rules["2d"]
    for rule, expected in ((full, published["nnunet_v2_3d_fullres"]), (plane, published["nnunet_v2_2d"])):
        assert list(rule.patch_size) == expected["patch_size"]
        assert rule.batch_size == expected["batch_size"]
    # The spacings of single cases were rounded to a millionth of a millimetre when they were published.
    assert plane.slice_axis == 0
    assert full.spacing_mm == pytest.approx(published["nnunet_v2_3d_fullres"]["spacing"], rel=1e-5)
    assert plane.spacing_mm[1:] == pytest.approx(published["nnunet_v2_2d"]["spacing"], rel=1e-5)
    assert list(full.median_shape) == published["nnunet_v2_3d_fullres"]["median_image_size_in_voxels"]
    assert plane.median_shape == full.median_shape[1:]
    assert ("3d_lowres" in rules) == published["nnunet_v2_has_lowres"]


@pytest.mark.parametrize(
    ("preset", "patch", "strides", "with_supervision"),
    [
        (MEDIUM, (128, 128, 128), ((1, 1, 1), *[(2, 2, 2)] * 5), 558_319_104),
        (MEDIUM, (512, 512), ((1, 1), *[(2, 2)] * 6), 129_793_792),
    ],
)
def test_memory_is_what_nnunet_notes_in_its_planner(
    preset: Preset, patch: tuple[int, ...], strides: tuple[tuple[int, ...], ...], with_supervision: int
) -> None:
    # Its notes count the outputs of deep supervision too, one on each level but the deepest.
    levels = len(strides)
    deep = sum(3 * math.prod(patch) // 2 ** (len(patch) * level) for level in range(1, levels - 1))
    assert count_elements(patch, strides, preset, classes=3) + deep == with_supervision


# Cases by hand


def test_presets() -> None:
    assert list(PRESETS) == ["nnunet-v2", "nnunet-v2-resenc-m", "nnunet-v2-resenc-l", "nnunet-v2-resenc-xl"]
    assert all(preset.name == name for name, preset in PRESETS.items())
    assert [preset.vram_gb for preset in PRESETS.values()] == [8, 8, 24, 40]
    assert [preset.residual for preset in PRESETS.values()] == [False, True, True, True]


def test_coarse_slices_wait_for_the_plane() -> None:
    strides, kernels = divide((3.6, 0.625, 0.625), (20, 320, 256))
    # 3.6 mm is less than twice 2.5 mm: the slices join after two levels, and stop at 5 before the plane does.
    assert strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2))
    assert kernels == ((1, 3, 3), (1, 3, 3), *[(3, 3, 3)] * 5)
    assert divisor(strides) == (4, 64, 64)


@pytest.mark.parametrize(
    ("size", "strides"),
    [
        ((7, 7), ((1, 1),)),
        ((8, 8), ((1, 1), (2, 2))),
        # An axis alone needs 12.
        ((11, 7), ((1, 1),)),
        ((12, 7), ((1, 1), (2, 1))),
        # Odd edges are rounded up before they are halved again: 15, 8, 4.
        ((15, 15), ((1, 1), (2, 2), (2, 2))),
    ],
)
def test_axes_are_halved_while_long(size: tuple[int, ...], strides: tuple[tuple[int, ...], ...]) -> None:
    assert divide((1.0, 1.0), size) == (strides, ((3, 3),) * len(strides))


def test_elements_of_small_networks() -> None:
    strides = ((1, 1), (2, 2))
    # Two convolutions down, two up and the transposed one; two at the bottom; three outputs.
    assert count_elements((8, 8), strides, PLAIN, 3) == 64 * 32 * 5 + 16 * 64 * 2 + 64 * 3
    # First convolution and a block of two, one up and the transposed one; three blocks and a skip connection.
    assert count_elements((8, 8), strides, MEDIUM, 3) == 64 * 32 * 5 + 16 * 64 * 7 + 64 * 3
    assert count_elements((4, 4), ((1, 1),), PLAIN, 3) == 16 * 32 * 2


@pytest.mark.parametrize(
    ("slices", "spacings", "expected"),
    [
        # Coarse and short: the 10th percentile of 11 cases is the second smallest.
        (10, [5.0] * 2 + [10.0] * 9, 5.0),
        (10, [5.0] + [10.0] * 10, 10.0),
        # Not short: three times 67 is more than 200.
        (66, [5.0] * 2 + [10.0] * 9, 5.0),
        (67, [5.0] * 2 + [10.0] * 9, 10.0),
        # Not coarse: three times 1.5 mm is not less than 4.5 mm.
        (10, [2.0] * 2 + [4.5] * 9, 4.5),
        # It does not get finer than the plane.
        (10, [1.0] * 2 + [10.0] * 9, 1.5 + 1e-5),
    ],
)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_target_spacing(slices: int, spacings: list[float], expected: float, axis: int) -> None:
    def along(coarse: Any, other: Any) -> tuple[Any, ...]:
        return tuple(coarse if i == axis else other for i in range(3))

    facts = fingerprint([case_of(along(slices, 200), along(spacing, 1.5)) for spacing in spacings])
    assert target_spacing(facts) == along(expected, 1.5)


def test_a_cube() -> None:
    rules = plan_networks(fingerprint([case_of((128, 128, 128))] * 100), PLAIN)
    assert set(rules) == {"2d", "3d"}
    full, plane = rules["3d"], rules["2d"]
    assert (full.patch_size, full.batch_size) == ((128, 128, 128), 2)
    assert full.features == (32, 64, 128, 256, 320, 320)
    assert full.strides == ((1, 1, 1), *[(2, 2, 2)] * 5)
    assert full.kernels == ((3, 3, 3),) * 6
    assert (full.encoder_blocks, full.decoder_blocks, full.residual) == ((2,) * 6, (2,) * 5, False)
    assert (full.slice_axis, full.batch_dice, full.previous) == (None, False, None)
    assert (plane.patch_size, plane.slice_axis, plane.batch_dice) == ((128, 128), 0, True)
    assert plane.features == (32, 64, 128, 256, 512, 512)


def test_residual_networks() -> None:
    rules = plan_networks(fingerprint([case_of((128, 128, 128))] * 100), LARGE)
    full = rules["3d"]
    assert full.residual
    assert full.encoder_blocks == (1, 3, 4, 6, 6, 6)
    assert full.decoder_blocks == (1,) * 5


def test_ties_are_broken_at_the_last_axis() -> None:
    # 256 cubed is too much, and 256 x 256 x 224 still; x is shortened first and then y, as in the published plans.
    assert plan_networks(fingerprint([case_of((256, 256, 256))]), HUGE)["3d"].patch_size == (256, 224, 224)


def test_the_whole_batch_must_fit_only_for_residual_networks() -> None:
    facts = fingerprint([case_of((64, 2000, 2000), (3.0, 1.0, 1.0))] * 50)
    plain, residual = (plan_networks(facts, preset)["2d"] for preset in (PLAIN, MEDIUM))
    assert plain.batch_size == 2
    assert residual.batch_size >= 12


@pytest.mark.parametrize(("cases", "plain", "residual"), [(1, 2, 2), (60, 3, 60), (100, 5, 70), (10_000, 71, 70)])
def test_a_batch_holds_a_share_of_the_dataset(cases: int, plain: int, residual: int) -> None:
    # Patches are whole cases of 32 x 48 x 48 here: 5 % of the cases, or with residual networks all of them. A voxel
    # costs 5 * 32 + 5 * 64 / 8 + 5 * 128 / 64 + 2 * 256 / 512 + 3 = 214 elements, so that 71 fit into two times 560e6,
    # or 5 * 32 + 9 * 64 / 8 + 11 * 128 / 64 + 13 * 256 / 512 + 3 = 263.5, so that 70 fit into two times 680e6.
    facts = fingerprint([case_of((32, 48, 48))] * cases)
    for preset, expected in ((PLAIN, plain), (MEDIUM, residual)):
        rule = plan_networks(facts, preset)["3d"]
        assert rule.patch_size == (32, 48, 48)
        assert rule.batch_size == expected


def test_low_resolution_of_a_large_volume() -> None:
    rules = plan_networks(fingerprint([case_of((400, 512, 512), (1.0, 0.8, 0.8))] * 100), PLAIN)
    assert set(rules) == {"2d", "3d", "3d_lowres", "3d_cascade"}
    assert [rules[name].batch_dice for name in ("2d", "3d", "3d_lowres", "3d_cascade")] == [True, True, False, True]
    assert rules["3d_cascade"] == replace(rules["3d"], previous="3d_lowres")


def test_low_resolution_is_dropped_where_it_is_hardly_lower() -> None:
    # Four patches of 128 cubed are 203 cubed: 224 is more, but not twice as many voxels.
    rules = plan_networks(fingerprint([case_of((224, 224, 224))] * 100), PLAIN)
    assert set(rules) == {"2d", "3d"}
    assert not rules["3d"].batch_dice


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 5.0, 0.2)])
def test_pictures_have_one_network(spacing: tuple[float, ...]) -> None:
    rules = plan_networks(fingerprint([case_of((1, 300, 400), spacing)], dimension=2), PLAIN)
    assert set(rules) == {"2d"}
    assert rules["2d"].slice_axis == 0
    assert rules["2d"].median_shape == (300, 400)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_thick_slice_has_one_network(axis: int) -> None:
    shape, spacing = [300, 400], [1.0, 1.0]
    shape.insert(axis, 1)
    spacing.insert(axis, 5.0)
    rules = plan_networks(fingerprint([case_of(tuple(shape), tuple(spacing))]), PLAIN)
    assert set(rules) == {"2d"}
    assert rules["2d"].slice_axis == axis
    assert rules["2d"].median_shape == (300, 400)


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((1, 1, 1), (1.0, 1.0, 1.0)),
        ((1, 1, 100_000), (1.0, 1.0, 1.0)),
        ((2, 3, 5), (1e-6, 1.0, 1e6)),
        # Here nnU-Net stops with an error: a low resolution of no slices, or a patch shrunk to nothing.
        ((2, 5000, 5000), (1.0, 1.0, 1.0)),
        ((3, 4000, 4000), (1000.0, 1.0, 1.0)),
        ((10_000, 10_000, 10_000), (0.001, 0.001, 0.001)),
    ],
)
@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_extreme_volumes_are_planned(preset: Preset, shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    for rule in plan_networks(fingerprint([case_of(shape, spacing)]), preset).values():
        assert_consistent(rule, preset)


# Properties

sizes = st.integers(1, 12) | st.integers(1, 800)
spacings = st.sampled_from([0.5, 1.0, 2.0, 5.0]) | st.floats(0.05, 20)
volumes = st.lists(
    st.builds(case_of, st.tuples(sizes, sizes, sizes), st.tuples(spacings, spacings, spacings)), min_size=1, max_size=5
)
presets = st.builds(
    lambda preset, share: replace(preset, vram_gb=preset.vram_gb * share),
    st.sampled_from(list(PRESETS.values())),
    st.just(1.0) | st.floats(0.001, 4),
)


def memory(rule: NetworkRule, preset: Preset) -> float:
    """The share of the target that the patch needs, for as many samples as must fit."""
    if len(rule.patch_size) == 2:
        budget, samples = preset.elements_2d, preset.fitted_batch_2d / 12
    else:
        budget, samples = preset.elements_3d, 1
    needed = list_elements(rule, CLASSES)
    return needed * samples / (budget * preset.vram_gb / preset.reference_vram_gb)


def list_elements(rule: NetworkRule, classes: int) -> int:
    """The feature maps of the network, written out one after another."""
    edges, maps, before = np.array(rule.patch_size), [], 0
    skips: list[int] = []
    for level, stride in enumerate(rule.strides):
        edges = edges // stride
        one = int(rule.features[level] * np.prod(edges, dtype=np.int64))
        if not rule.residual:
            maps += [one] * rule.encoder_blocks[level]
        else:
            maps += [one] if level == 0 else []
            for block in range(rule.encoder_blocks[level]):
                narrower = block == 0 and level > 0 and (before != rule.features[level] or max(stride) > 1)
                maps += [one] * (3 if narrower else 2)
        before = rule.features[level]
        skips.append(one)
    for level, convolutions in enumerate(rule.decoder_blocks):
        maps += [skips[level]] * (convolutions + 1)
    if rule.decoder_blocks:
        maps.append(classes * math.prod(rule.patch_size))
    return sum(maps)


def assert_consistent(rule: NetworkRule, preset: Preset) -> None:
    levels, dimension = len(rule.strides), len(rule.patch_size)
    assert dimension == (3 if rule.slice_axis is None else 2)
    assert len(rule.spacing_mm) == 3
    assert len(rule.median_shape) == dimension
    assert levels == len(rule.features) == len(rule.kernels) == len(rule.encoder_blocks) == len(rule.decoder_blocks) + 1
    assert set(rule.strides[0]) == {1}
    assert all(set(stride) <= {1, 2} and 2 in stride for stride in rule.strides[1:])
    assert set(rule.kernels[-1]) == {3}
    # Once an axis has full kernels it keeps them.
    for finer, coarser in zip(rule.kernels, rule.kernels[1:], strict=False):
        assert all(1 <= above <= below <= 3 for above, below in zip(finer, coarser, strict=True))
    for edge, step in zip(rule.patch_size, divisor(rule.strides), strict=True):
        assert edge >= 1
        assert edge % step == 0
        assert step == 1 or edge // step >= 4
    assert rule.features[0] == 32
    assert max(rule.features) <= (512 if dimension == 2 else 320)
    assert rule.batch_size >= 2
    assert memory(rule, preset) <= 1 + 1e-9 or set(rule.patch_size) == {1}


@given(volumes, presets)
@settings(max_examples=200)
def test_networks_are_consistent_and_fit(cases: list[CaseFingerprint], preset: Preset) -> None:
    facts = fingerprint(cases)
    rules = plan_networks(facts, preset)
    assert "2d" in rules
    for rule in rules.values():
        assert_consistent(rule, preset)
        assert count_elements(rule.patch_size, rule.strides, preset, CLASSES) == list_elements(rule, CLASSES)
    assert rules["2d"].batch_dice
    assert rules["2d"].slice_axis == int(np.argmax(target_spacing(facts)))
    if "3d" in rules:
        full, low = rules["3d"], rules.get("3d_lowres")
        assert full.spacing_mm == rules["2d"].spacing_mm == target_spacing(facts)
        assert full.batch_dice == (low is not None)
        assert ("3d_cascade" in rules) == (low is not None)
        if low:
            assert_low_resolution(full, low)
            assert rules["3d_cascade"] == replace(full, previous="3d_lowres")


def assert_low_resolution(full: NetworkRule, low: NetworkRule) -> None:
    assert not low.batch_dice
    growth = [coarse / fine for coarse, fine in zip(low.spacing_mm, full.spacing_mm, strict=True)]
    steps = [math.log(factor, 1.03) for factor in growth]
    assert all(count == pytest.approx(round(count), abs=1e-6) and count >= -1e-6 for count in steps)
    # Fine axes catch up before the others grow: no axis falls behind, and none overtakes.
    assert max(low.spacing_mm) / min(low.spacing_mm) <= max(max(full.spacing_mm) / min(full.spacing_mm), 2.06)
    assert math.prod(growth) >= 2 * (1 - 1e-9)
    # The median shape is rounded, and at least one voxel long.
    exact = [size / factor for size, factor in zip(full.median_shape, growth, strict=True)]
    assert all(abs(size - found) <= 1 for size, found in zip(exact, low.median_shape, strict=True))


@given(volumes, presets)
@settings(max_examples=100)
def test_it_does_not_matter_where_the_slices_are(cases: list[CaseFingerprint], preset: Preset) -> None:
    target = target_spacing(fingerprint(cases))
    axis = target.index(max(target))
    assume(target.count(max(target)) == 1)
    # The other two keep their order: it decides between equals.
    first = (axis, *(other for other in range(3) if other != axis))

    def turn(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(values[axis] for axis in first)

    turned = plan_networks(fingerprint([case_of(turn(item.shape), turn(item.spacing_mm)) for item in cases]), preset)
    for name, rule in plan_networks(fingerprint(cases), preset).items():
        expected = replace(rule, spacing_mm=turn(rule.spacing_mm))
        if name == "2d":
            expected = replace(expected, slice_axis=0)
        else:
            expected = replace(
                expected,
                median_shape=turn(rule.median_shape),
                patch_size=turn(rule.patch_size),
                strides=tuple(turn(stride) for stride in rule.strides),
                kernels=tuple(turn(kernel) for kernel in rule.kernels),
            )
        assert turned[name] == expected


@given(volumes, st.sampled_from(list(PRESETS.values())), st.floats(0.01, 4), st.floats(1, 10))
@settings(max_examples=100)
def test_more_memory_is_used(cases: list[CaseFingerprint], preset: Preset, share: float, more: float) -> None:
    small = replace(preset, vram_gb=preset.vram_gb * share)
    large = replace(small, vram_gb=small.vram_gb * more)
    facts = fingerprint(cases)
    before, after = plan_networks(facts, small), plan_networks(facts, large)
    for name in {"2d", "3d"} & set(before):
        assert list_elements(after[name], CLASSES) >= list_elements(before[name], CLASSES)


@given(volumes, st.integers(2, 50))
@settings(max_examples=50)
def test_more_cases_make_batches_larger(cases: list[CaseFingerprint], times: int) -> None:
    few, many = (plan_networks(fingerprint(found), PLAIN) for found in (cases, cases * times))
    # Percentiles of few cases change when the cases are repeated; what is about the batch holds for equal grids.
    assume(few["2d"].spacing_mm == many["2d"].spacing_mm and few["2d"].median_shape == many["2d"].median_shape)
    assert few["2d"].patch_size == many["2d"].patch_size
    assert few["2d"].batch_size <= many["2d"].batch_size

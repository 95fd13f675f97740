from __future__ import annotations

import math

from hypothesis import example, given, settings
from hypothesis import strategies as st

from voxfit.planning.patch_rules import (
    PatchRule,
    coarser_spacing,
    count_poolings,
    needs_cascade,
    plane_rule,
    slice_axis,
    volume_rule,
)
from voxfit.planning.plan import Limits

sizes = st.integers(1, 12) | st.integers(1, 2000)
spacings = st.sampled_from([0.5, 1.0, 2.0, 5.0]) | st.floats(1e-3, 1e3)
volumes = st.tuples(st.tuples(sizes, sizes, sizes), st.tuples(spacings, spacings, spacings))
cases = st.integers(1, 10_000)
# With an odd shortest edge the second count of poolings may pad beyond the budget: the paper's is 8.
limits_given = st.just(Limits()) | st.builds(
    Limits,
    voxel_budget=st.integers(64, 200_000),
    plane_voxels=st.integers(64, 200_000),
    max_pool_2d=st.integers(1, 6),
    max_pool_3d=st.integers(1, 5),
    min_edge=st.sampled_from([4, 8, 16]),
    dataset_fraction=st.floats(0.001, 1),
    min_batch_size=st.integers(1, 4),
)


def poolings(size: float, most: int, min_edge: int) -> int:
    """[A1] in closed form: the last size that is halved is at least `min_edge`."""
    return max(sum(size >= min_edge * 2**done for done in range(most)), 0)


def padded(size: float, pools: int) -> int:
    return -(-math.ceil(size) // 2**pools) * 2**pools


def batch_size(patch: tuple[int, ...], voxels: int, median_voxels: int, num_cases: int, limits: Limits) -> int:
    """[A4]."""
    share = round(limits.dataset_fraction * median_voxels * num_cases / math.prod(patch))
    return max(min(voxels // math.prod(patch), share), limits.min_batch_size)


def assert_poolable(rule: PatchRule, most: int, min_edge: int) -> None:
    assert len(rule.patch_size) == len(rule.num_pool)
    for size, pools in zip(rule.patch_size, rule.num_pool, strict=True):
        assert size >= 1
        assert size % 2**pools == 0
        assert 0 <= pools <= most
        # Nothing is pooled away: what is halved last is not shorter than the rule allows.
        assert pools == 0 or size // 2 ** (pools - 1) >= min_edge


@given(st.integers(1, 10**6) | st.floats(0.01, 1e6), st.integers(1, 12), st.integers(1, 64))
def test_poolings_are_halvings_of_what_is_long_enough(size: float, most: int, min_edge: int) -> None:
    assert count_poolings(size, most, min_edge) == poolings(size, most, min_edge)


@given(st.lists(spacings, min_size=3, max_size=3))
def test_slices_are_stacked_along_the_coarsest_axis(spacing: list[float]) -> None:
    assert slice_axis(spacing) == spacing.index(max(spacing))


@given(st.tuples(sizes, sizes), sizes, cases, limits_given)
def test_the_plane_is_the_median_padded_twice(
    plane: tuple[int, int], depth: int, num_cases: int, limits: Limits
) -> None:
    rule = plane_rule(plane, depth * math.prod(plane), num_cases, limits)
    assert_poolable(rule, limits.max_pool_2d, limits.min_edge)
    for size, edge, pools in zip(plane, rule.patch_size, rule.num_pool, strict=True):
        once = padded(size, poolings(size, limits.max_pool_2d, limits.min_edge))
        assert pools == poolings(once, limits.max_pool_2d, limits.min_edge)
        assert edge == padded(once, pools) >= size
    expected = batch_size(rule.patch_size, limits.plane_voxels, depth * math.prod(plane), num_cases, limits)
    assert rule.batch_size == expected >= limits.min_batch_size


@given(volumes, cases, limits_given)
@settings(max_examples=300)
def test_a_volume_patch_can_be_pooled_and_keeps_to_the_limits(
    volume: tuple[tuple[int, ...], tuple[float, ...]], num_cases: int, limits: Limits
) -> None:
    shape, spacing = volume
    rule = volume_rule(shape, spacing, num_cases, limits)
    assert_poolable(rule, limits.max_pool_3d, limits.min_edge)
    # No axis gets shorter than one voxel at the bottom; a tiny budget may be less than that.
    smallest = math.prod(2 ** poolings(size, limits.max_pool_3d, limits.min_edge) for size in shape)
    assert math.prod(rule.patch_size) <= max(limits.voxel_budget, smallest)
    for size, edge in zip(shape, rule.patch_size, strict=True):
        assert edge <= padded(size, poolings(size, limits.max_pool_3d, limits.min_edge))
    expected = batch_size(rule.patch_size, 2 * limits.voxel_budget, math.prod(shape), num_cases, limits)
    assert rule.batch_size == expected >= limits.min_batch_size


@given(st.tuples(*[st.integers(1, 128)] * 3), cases)
def test_a_small_cube_of_equal_spacing_is_taken_whole(shape: tuple[int, int, int], num_cases: int) -> None:
    rule = volume_rule(shape, (1.0, 1.0, 1.0), num_cases, Limits())
    for size, edge in zip(shape, rule.patch_size, strict=True):
        assert edge == padded(size, poolings(size, 5, 8))


@given(st.integers(0, 4))
def test_a_larger_cube_gets_the_whole_budget(doublings: int) -> None:
    edge = 128 << doublings
    assert volume_rule((edge,) * 3, (0.7,) * 3, 1000, Limits()) == PatchRule((128,) * 3, 2, (5, 5, 5))


@given(volumes, st.floats(1e-9, 1e9))
@example(((1, 2000, 2000), (1e-3, 1e3, 1e3)), 1e-9)
def test_extreme_anisotropy_ends(volume: tuple[tuple[int, ...], tuple[float, ...]], factor: float) -> None:
    shape, spacing = volume
    rule = volume_rule(shape, (spacing[0] * factor, *spacing[1:]), 10, Limits())
    assert min(rule.patch_size) >= 1
    assert math.prod(rule.patch_size) <= 128**3


@given(st.tuples(sizes, sizes, sizes), st.integers(1, 10**6), st.integers(1, 8))
def test_a_cascade_is_for_more_than_four_patches(shape: tuple[int, ...], budget: int, factor: int) -> None:
    limits = Limits(voxel_budget=budget, cascade_factor=factor)
    assert needs_cascade(shape, limits) == (shape[0] * shape[1] * shape[2] > factor * budget)


@given(st.tuples(spacings, spacings, spacings))
def test_fine_axes_catch_up_before_all_double(spacing: tuple[float, ...]) -> None:
    coarser = coarser_spacing(spacing)
    factors = [new / old for new, old in zip(coarser, spacing, strict=True)]
    assert set(factors) <= {1.0, 2.0}
    if max(spacing) >= 2 * min(spacing):
        assert [factor == 2 for factor in factors] == [value <= max(spacing) / 2 for value in spacing]
        assert max(coarser) == max(spacing)
    else:
        assert factors == [2.0] * 3

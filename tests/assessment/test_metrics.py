"""Metrics against brute force over explicit surface points, closed forms, and properties that hold for any masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import cdist

from voxfit.assessment.metrics import dice, hausdorff_95_mm, surface_dice, surface_distances, volume_ml
from voxfit.core.errors import UsageError

SHAPES = st.tuples(*[st.integers(1, 6)] * 3)
PAIRS = SHAPES.flatmap(lambda shape: st.tuples(*[hnp.arrays(np.bool_, shape)] * 2))
SPACINGS = st.tuples(*[st.sampled_from([0.25, 0.7, 1.0, 1.3, 3.0])] * 3)


def brute_surface(mask):
    """Voxels with a neighbour outside, one at a time; a single slice has no neighbours along z."""
    axes = [0, 1, 2] if mask.shape[0] > 1 else [1, 2]
    steps = [tuple(sign * (axis == other) for other in range(3)) for axis in axes for sign in (-1, 1)]
    inside = {tuple(point) for point in np.argwhere(mask).tolist()}
    return sorted(
        point
        for point in inside
        if any(tuple(p + s for p, s in zip(point, step, strict=True)) not in inside for step in steps)
    )


def brute_distances(reference, predicted, spacing):
    table = cdist(np.array(brute_surface(reference)) * spacing, np.array(brute_surface(predicted)) * spacing)
    return table.min(1), table.min(0)


def brute_percentile(values, share):
    """Linear interpolation between ranks, written out."""
    ranked = sorted(values)
    position = share * (len(ranked) - 1)
    low = int(position)
    high = min(low + 1, len(ranked) - 1)
    return ranked[low] + (position - low) * (ranked[high] - ranked[low])


def cube(shape, start, size):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(first, first + size) for first in start)] = True
    return mask


def ball(radius, spacing=(1.0, 1.0, 1.0), extent=24.0):
    """A ball around the middle of a grid of `extent` mm."""
    axes = [np.arange(-extent / 2, extent / 2 + size / 2, size) for size in spacing]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return z**2 + y**2 + x**2 <= radius**2


@settings(max_examples=200, deadline=None)
@given(PAIRS, SPACINGS)
def test_equals_brute_force(pair, spacing):
    reference, predicted = pair
    distances = surface_distances(reference, predicted, spacing)
    if not reference.any() or not predicted.any():
        assert hausdorff_95_mm(distances) is None
        return
    there, back = brute_distances(reference, predicted, spacing)
    np.testing.assert_allclose(distances.reference_to_predicted_mm, there, atol=1e-12)
    np.testing.assert_allclose(distances.predicted_to_reference_mm, back, atol=1e-12)
    assert hausdorff_95_mm(distances) == pytest.approx(max(brute_percentile(there, 0.95), brute_percentile(back, 0.95)))
    within = sum(there <= 1.1) + sum(back <= 1.1)
    assert surface_dice(distances, 1.1) == pytest.approx(within / (len(there) + len(back)))
    a, b = ({tuple(point) for point in np.argwhere(mask).tolist()} for mask in pair)
    assert dice(reference, predicted) == pytest.approx(2 * len(a & b) / (len(a) + len(b)))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 0.7, 0.7), (5.0, 1.0, 0.5)])
def test_equals_brute_force_on_large_far_apart_shapes(spacing):
    reference, predicted = np.zeros((2, 30, 40, 36), bool)
    reference[5:20, 6:25, 4:16] = True
    reference[10, 12, 8] = False  # a hole is a surface, too
    predicted[18:30, 0:9, 20:36] = True
    distances = surface_distances(reference, predicted, spacing)
    there, back = brute_distances(reference, predicted, spacing)
    np.testing.assert_allclose(distances.reference_to_predicted_mm, there)
    np.testing.assert_allclose(distances.predicted_to_reference_mm, back)


@settings(max_examples=60, deadline=None)
@given(PAIRS, SPACINGS)
def test_is_symmetric(pair, spacing):
    first, second = pair
    one, other = surface_distances(first, second, spacing), surface_distances(second, first, spacing)
    assert dice(first, second) == dice(second, first)
    assert hausdorff_95_mm(one) == hausdorff_95_mm(other)
    assert surface_dice(one, 1.0) == surface_dice(other, 1.0)


@settings(max_examples=60, deadline=None)
@given(PAIRS, SPACINGS)
def test_identity_is_perfect_and_all_values_are_in_range(pair, spacing):
    first, second = pair
    if first.any():
        same = surface_distances(first, first, spacing)
        assert (dice(first, first), hausdorff_95_mm(same), surface_dice(same, 0.0)) == (1.0, 0.0, 1.0)
    if first.any() or second.any():
        distances = surface_distances(first, second, spacing)
        shares = [surface_dice(distances, tolerance) for tolerance in (0.0, 0.5, 1.0, 2.0, 100.0)]
        assert 0 <= dice(first, second) <= 1
        assert shares == sorted(shares)
        assert all(0 <= share <= 1 for share in shares)
        assert shares[-1] == (1.0 if first.any() and second.any() else 0.0)


@settings(max_examples=60, deadline=None)
@given(PAIRS, SPACINGS, st.permutations(range(3)))
def test_distances_scale_with_spacing_and_follow_the_axes(pair, spacing, order):
    first, second = (np.pad(mask, 1) for mask in pair)
    plain = surface_distances(first, second, spacing)
    doubled = surface_distances(first, second, tuple(2 * size for size in spacing))
    np.testing.assert_array_equal(2 * plain.reference_to_predicted_mm, doubled.reference_to_predicted_mm)
    assert surface_dice(plain, 1.0) == surface_dice(doubled, 2.0)
    turned = surface_distances(first.transpose(order), second.transpose(order), tuple(spacing[axis] for axis in order))
    np.testing.assert_allclose(
        np.sort(plain.predicted_to_reference_mm), np.sort(turned.predicted_to_reference_mm), atol=1e-12
    )


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * 3))
def test_surroundings_do_not_count(pair, margins):
    if pair[0].shape[0] == 1:  # with more slices it is no longer a two-dimensional image
        margins = ((0, 0), *margins[1:])
    tight = surface_distances(*pair, (3.0, 1.0, 1.0))
    padded = surface_distances(*(np.pad(mask, margins) for mask in pair), (3.0, 1.0, 1.0))
    np.testing.assert_array_equal(tight.reference_to_predicted_mm, padded.reference_to_predicted_mm)
    np.testing.assert_array_equal(tight.predicted_to_reference_mm, padded.predicted_to_reference_mm)


@pytest.mark.parametrize("shift", [0, 1, 3, 9])
@pytest.mark.parametrize("size", [4, 7])
def test_shifted_cubes_have_the_known_dice(size, shift):
    reference, predicted = cube((20, 20, 20), (2, 3, 4), size), cube((20, 20, 20), (2, 3, 4 + shift), size)
    assert dice(reference, predicted) == pytest.approx(max(size - shift, 0) / size)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.5, 0.5)])
@pytest.mark.parametrize("gap", [1, 2, 5])
def test_parallel_plates_are_as_far_apart_as_they_are(spacing, gap):
    reference, predicted = np.zeros((2, 12, 10, 10), bool)
    reference[3], predicted[3 + gap] = True, True
    distances = surface_distances(reference, predicted, spacing)
    assert hausdorff_95_mm(distances) == pytest.approx(gap * spacing[0])
    assert surface_dice(distances, gap * spacing[0]) == 1
    assert surface_dice(distances, gap * spacing[0] * 0.99) == 0


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 0.5, 0.8)])
def test_concentric_balls(spacing):
    small, large = ball(6.0, spacing), ball(10.0, spacing)
    distances = surface_distances(small, large, spacing)
    assert hausdorff_95_mm(distances) == pytest.approx(4.0, abs=max(spacing))
    assert dice(small, large) == pytest.approx(2 * 6**3 / (6**3 + 10**3), rel=0.05)
    assert volume_ml(int(large.sum()), spacing) == pytest.approx(4 / 3 * np.pi * 10**3 / 1000, rel=0.05)


def test_outliers_beyond_the_percentile_do_not_count():
    reference = np.zeros((1, 10, 200), bool)
    reference[0, 2, :100] = True
    predicted = reference.copy()
    predicted[0, 2, 199] = True  # one surface voxel of 101
    assert hausdorff_95_mm(surface_distances(reference, predicted, (1.0, 1.0, 1.0))) == 0
    predicted[0, 2, 190:] = True  # ten of 110
    assert hausdorff_95_mm(surface_distances(reference, predicted, (1.0, 1.0, 1.0))) > 90


def test_a_single_slice_has_no_surface_along_z():
    mask = cube((1, 9, 9), (0, 2, 2), 5)
    in_plane, in_volume = (
        surface_distances(array, array, (1.0, 1.0, 1.0)).reference_to_predicted_mm for array in (mask, np.pad(mask, 1))
    )
    assert len(in_plane) == 16  # the outline of 5 x 5
    assert len(in_volume) == 25


def test_the_border_of_a_volume_is_a_surface():
    full = np.ones((3, 3, 3), bool)
    assert len(surface_distances(full, full, (1.0, 1.0, 1.0)).reference_to_predicted_mm) == 26


def test_what_is_absent():
    nothing, something = np.zeros((4, 4, 4), bool), cube((4, 4, 4), (1, 1, 1), 2)
    for pair in ((nothing, something), (something, nothing)):
        distances = surface_distances(*pair, (1.0, 1.0, 1.0))
        assert dice(*pair) == 0
        assert hausdorff_95_mm(distances) is None
        assert surface_dice(distances, 1000.0) == 0
    distances = surface_distances(nothing, nothing, (1.0, 1.0, 1.0))
    assert dice(nothing, nothing) is None
    assert hausdorff_95_mm(distances) is None
    assert surface_dice(distances, 1.0) is None


@pytest.mark.parametrize("size_mm", [0.1, 0.3, 0.7, 1.1])
def test_the_tolerance_allows_for_32_bit_headers(size_mm):
    reference, predicted = np.zeros((2, 2, 4, 30), bool)
    reference[..., 2], predicted[..., 12] = True, True
    distances = surface_distances(reference, predicted, (1.0, 1.0, float(np.float32(size_mm))))
    assert surface_dice(distances, 10 * size_mm) == 1


def test_integers_count_as_masks():
    first, second = np.array([[[0, 1, 7, -2]]]), np.array([[[3, 0, 1, 1]]])
    assert dice(first, second) == pytest.approx(4 / 6)
    assert len(surface_distances(first, second, (1.0, 1.0, 1.0)).reference_to_predicted_mm) == 3


def test_shapes_that_differ_are_named():
    first, second = np.ones((1, 4, 4), bool), np.ones((3, 4, 4), bool)
    for measure in (dice, lambda a, b: surface_distances(a, b, (1.0, 1.0, 1.0))):
        with pytest.raises(UsageError, match=r"\(1, 4, 4\).*\(3, 4, 4\)"):
            measure(first, second)


def test_volume():
    assert volume_ml(1000, (5.0, 0.5, 0.4)) == pytest.approx(1.0)
    assert volume_ml(0, (1.0, 1.0, 1.0)) == 0

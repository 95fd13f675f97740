"""Resampling by matrices against SciPy and scikit-image."""

import numpy as np
import pytest
import scipy.ndimage
import skimage.transform
from hypothesis import example, given, settings
from hypothesis import strategies as st

from voxfit.preprocessing.resampling import axis_matrix, coarse_axis, resample, resample_linear, resample_nearest

sizes = st.integers(1, 24)
shapes = st.tuples(sizes, sizes, sizes)
small = st.integers(1, 12)
small_shapes = st.tuples(small, small, small)
seeds = st.integers(0, 2**32 - 1)


def resized(array, shape, order):
    return skimage.transform.resize(array.astype(np.float64), shape, order=order, mode="edge", anti_aliasing=False)


def slice_by_slice(array, shape, axis, resize):
    """Each slice by `resize`, then the nearest slice, which SciPy finds."""
    plane = shape[:axis] + shape[axis + 1 :]
    slices = np.stack([resize(part, plane) for part in np.moveaxis(array, axis, 0)])
    centres = array.shape[axis] / shape[axis] * (np.arange(shape[axis]) + 0.5) - 0.5
    rows = scipy.ndimage.map_coordinates(np.arange(array.shape[axis]), [centres], order=0, mode="nearest")
    return np.moveaxis(slices[rows], 0, axis)


def most(label, shape):
    """The label whose mask scikit-image interpolates to the most; of several, the nearest, else the smallest."""
    values = np.unique(label)
    masks = np.stack([resized(label == value, shape, 1) for value in values])
    leading = masks == masks.max(axis=0)
    nearest = resized(label, shape, 0)
    among = (leading & (values.reshape(-1, *[1] * label.ndim) == nearest)).any(axis=0)
    return np.where(among, nearest, values[leading.argmax(axis=0)])


@settings(max_examples=40, deadline=None)
@given(shapes, shapes, st.integers(0, 2**32 - 1))
def test_cubic_equals_scikit_image(old, new, seed):
    image = np.random.default_rng(seed).normal(size=old).astype(np.float32)
    expected = skimage.transform.resize(
        image.astype(np.float64), new, order=3, mode="edge", anti_aliasing=False, preserve_range=True, clip=False
    )
    assert np.abs(resample(image[None], new, order=3)[0] - expected).max() < 1e-4 * max(np.ptp(image), 1)


@pytest.mark.parametrize("order", [1, 3])
def test_equals_scipy_zoom_on_several_channels(order):
    image = np.random.default_rng(0).normal(size=(2, 13, 20, 9)).astype(np.float32)
    new = (20, 11, 17)
    expected = np.stack(
        [
            scipy.ndimage.zoom(
                channel.astype(np.float64),
                [a / b for a, b in zip(new, channel.shape, strict=True)],
                order=order,
                mode="nearest",
                grid_mode=True,
            )
            for channel in image
        ]
    )
    assert np.abs(resample(image, new, order=order) - expected).max() < 1e-5


@given(sizes, sizes, st.sampled_from([1, 3]))
@settings(max_examples=60, deadline=None)
def test_a_constant_stays_constant(old, new, order):
    assert axis_matrix(old, new, order).sum(axis=1) == pytest.approx(np.ones(new), abs=1e-5)


def test_no_denormal_entries():
    matrix = np.abs(axis_matrix(256, 320, 3))
    assert not ((matrix > 0) & (matrix < np.finfo(np.float32).tiny)).any()


def test_the_same_shape_changes_nothing():
    image = np.random.default_rng(0).normal(size=(1, 4, 5, 6)).astype(np.float32)
    assert np.array_equal(resample(image, (4, 5, 6), order=3), image)


@settings(max_examples=60, deadline=None)
@given(shapes, shapes, st.integers(0, 2**32 - 1))
def test_nearest_takes_the_voxel_whose_extent_holds_the_centre(old, new, seed):
    label = np.random.default_rng(seed).integers(0, 5, old).astype(np.int16)
    result = resample_nearest(label, new)
    assert result.shape == new
    rng = np.random.default_rng(seed)
    for _ in range(10):
        voxel = tuple(int(rng.integers(size)) for size in new)
        position = [(index + 0.5) * a / b for index, a, b in zip(voxel, old, new, strict=True)]
        if min(abs(value - round(value)) for value in position) < 1e-9:
            continue  # exactly between two voxels, both are nearest
        assert result[voxel] == label[tuple(int(np.floor(value)) for value in position)]


@pytest.mark.parametrize(
    ("spacing_mm", "new_spacing_mm", "axis"),
    [
        ((5.0, 1.0, 1.0), (1.0, 1.0, 1.0), 0),
        ((1.0, 1.0, 1.0), (1.0, 1.0, 5.0), 2),
        ((1.0, 5.0, 1.0), (1.0, 1.0, 5.0), 1),  # the old spacing first
        ((3.0, 1.0, 1.0), (1.0, 3.0, 1.0), None),  # not more than 3 times
        ((3.01, 1.0, 2.0), (1.0, 1.0, 1.0), 0),
        ((5.0, 5.0, 1.0), (1.0, 1.0, 5.0), None),  # two axes: none, and the new spacing is not asked
        ((4.0, 5.0, 1.0), (1.0, 1.0, 1.0), 1),
    ],
)
def test_the_axis_that_is_apart(spacing_mm, new_spacing_mm, axis):
    assert coarse_axis(spacing_mm, new_spacing_mm, 3.0) == axis
    assert coarse_axis(spacing_mm, new_spacing_mm, None) is None


@settings(max_examples=60)
@given(small_shapes, small_shapes, st.sampled_from([0, 1, 2]), st.sampled_from([1, 3]), seeds)
def test_an_axis_apart_is_slices_by_scikit_image(old, new, axis, order, seed):
    image = np.random.default_rng(seed).normal(size=(2, *old)).astype(np.float32)
    found = resample(image, new, order, separate_axis=axis, clip=True)
    for channel, result in zip(image, found, strict=True):
        # scikit-image keeps each slice within its own range.
        expected = slice_by_slice(channel, new, axis, lambda part, shape: resized(part, shape, order))
        assert np.abs(result - expected).max() < 1e-4 * max(np.ptp(image), 1)


@settings(max_examples=40)
@given(small_shapes, small_shapes, seeds)
def test_clipping_is_scikit_images(old, new, seed):
    image = np.random.default_rng(seed).normal(size=(2, *old)).astype(np.float32)
    found = resample(image, new, order=3, clip=True)
    for channel, result in zip(image, found, strict=True):
        assert channel.min() <= result.min()
        assert result.max() <= channel.max()
        assert np.abs(result - resized(channel, new, 3)).max() < 1e-4 * max(np.ptp(image), 1)


@settings(max_examples=150)
@given(small_shapes, small_shapes, seeds)
@example((7, 7, 4), (11, 11, 3), 0)  # ties that depend on the last digit of sums at the border
def test_linear_labels_are_the_most_interpolated_mask(old, new, seed):
    """To the voxel, ties included; twice as many voxels are where most ties are."""
    label = np.random.default_rng(seed).integers(-2, 3, old).astype(np.int16)
    for shape in (new, tuple(2 * size for size in old)):
        result = resample_linear(label, shape)
        assert result.dtype == label.dtype
        assert np.array_equal(result, most(label, shape))


@settings(max_examples=60)
@given(small_shapes, small_shapes, st.sampled_from([0, 1, 2]), seeds)
def test_linear_labels_with_an_axis_apart(old, new, axis, seed):
    label = np.random.default_rng(seed).integers(-1, 3, old).astype(np.int16)
    assert np.array_equal(resample_linear(label, new, separate_axis=axis), slice_by_slice(label, new, axis, most))


def test_where_several_labels_meet_a_voxel_still_gets_one():
    """A quarter each: no label reaches a half. The nearest old voxel decides, here the last of the four."""
    corners = np.array([[[1, 2], [3, 4]]], np.int16)
    assert resample_linear(corners, (1, 1, 1)).item() == 4
    # A tie of two that the nearest voxel is not among: the smaller.
    label = np.array([[[3, 1], [1, 1]], [[2, 2], [2, 3]]], np.int16)
    assert resample_linear(label, (1, 1, 1)).item() == 1


def test_linear_labels_do_not_depend_on_how_many_are_decided_together(monkeypatch):
    label = np.random.default_rng(0).integers(0, 4, (9, 10, 11)).astype(np.int16)
    expected = resample_linear(label, (13, 7, 20))
    monkeypatch.setattr("voxfit.preprocessing.resampling._AT_ONCE", 50)
    assert np.array_equal(resample_linear(label, (13, 7, 20)), expected)

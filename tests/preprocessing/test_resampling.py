"""Resampling by matrices against SciPy and scikit-image."""

import numpy as np
import pytest
import scipy.ndimage
import skimage.transform
from hypothesis import given, settings
from hypothesis import strategies as st

from voxfit.preprocessing.resampling import axis_matrix, resample, resample_nearest

sizes = st.integers(1, 24)
shapes = st.tuples(sizes, sizes, sizes)


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

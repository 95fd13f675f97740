"""Tiles in closed form; weights against SciPy."""

import itertools

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from voxfit.inference.tiling import gaussian_weights, tile_starts, tiles

PATCH = (8, 12, 10)


@settings(max_examples=300)
@given(st.integers(0, 300), st.integers(1, 64))
def test_tiles_cover_everything_and_overlap_by_half(more, edge):
    starts = tile_starts(edge + more, edge)
    assert starts[0] == 0
    assert starts[-1] == more
    steps = np.diff(starts)
    # Half a tile, to the next whole voxel.
    assert (steps <= (edge + 1) // 2).all()
    assert (steps > 0).all()


@settings(max_examples=300)
@given(st.integers(0, 300), st.integers(2, 64))
def test_there_are_no_more_tiles_than_needed(more, edge):
    """One tile less, and their mean distance would be more than half an edge."""
    count = len(tile_starts(edge + more, edge))
    assert count == 1 or more > (count - 2) * edge / 2


@settings(max_examples=100)
@given(st.integers(0, 300), st.integers(2, 64))
def test_tiles_lie_where_even_spacing_puts_them(more, edge):
    starts = tile_starts(edge + more, edge)
    assert np.abs(np.array(starts) - np.linspace(0, more, len(starts))).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("size", "edge", "expected"),
    [
        (110, 64, [0, 23, 46]),
        (9, 3, [0, 2, 3, 4, 6]),  # halves go to the even voxel
        (6, 3, [0, 2, 3]),
        (5, 1, [0, 1, 2, 3, 4]),  # slices do not overlap
        (7, 7, [0]),
    ],
)
def test_starts(size, edge, expected):
    assert tile_starts(size, edge) == expected


def test_tiles_are_the_product_of_the_axes():
    found = tiles((16, 24, 20), PATCH)
    assert [box.start for box in found] == list(itertools.product([0, 4, 8], [0, 6, 12], [0, 5, 10]))
    assert {box.shape for box in found} == {PATCH}


def test_centred_weights_are_scipys_gaussian():
    patch = (16, 25, 32)
    weights = gaussian_weights(patch)
    point = np.zeros(patch)
    centre = tuple(size // 2 for size in patch)
    # SciPy can only place its peak on a voxel: compare on the axis whose middle is one.
    point[centre] = 1
    expected = scipy.ndimage.gaussian_filter1d(point[centre[0], :, centre[2]], 25 / 8, mode="constant", truncate=10)
    line = weights[8, :, 16]
    # The line does not pass through the peak of the other axes, so that its floor is a little higher.
    assert line / line.max() == pytest.approx(
        np.maximum(expected / expected.max(), weights.min() / line.max()), abs=2e-3
    )
    assert weights.max() == pytest.approx(1, abs=0.1)
    assert weights.min() > 0
    assert np.array_equal(weights, weights[::-1, ::-1, ::-1])


@pytest.mark.parametrize("patch", [(16, 20, 24), (7, 9, 32), (5, 1, 12), (56, 40), (2, 2, 3), (1, 1, 1)])
def test_shifted_weights_are_scipys_blurred_point(patch):
    point = np.zeros(patch)
    point[tuple(size // 2 for size in patch)] = 1
    expected = scipy.ndimage.gaussian_filter(point, [size / 8 for size in patch], mode="constant")
    weights = gaussian_weights(patch, "shifted")
    assert weights.dtype == np.float32
    assert weights.min() > 0
    # One rounding to single precision, half a step of 1.2e-7.
    assert np.abs(weights / (expected / expected.max()) - 1).max() < 1e-7

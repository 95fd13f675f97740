"""Tiles in closed form; weights against SciPy and brute force."""

import functools
import itertools

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from voxfit.inference.tiling import gaussian_profile, normalized_tile_weights, tile_starts, tiles

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
    assert [tile.box.start for tile in found] == list(itertools.product([0, 4, 8], [0, 6, 12], [0, 5, 10]))
    assert [tile.index for tile in found] == list(itertools.product(range(3), repeat=3))
    assert {tile.box.shape for tile in found} == {PATCH}


@pytest.mark.parametrize("edge", [16, 25, 7, 32])
def test_a_centred_profile_is_scipys_gaussian(edge):
    # SciPy can only place its peak on a voxel: the profile is every second one of an axis twice as fine.
    point = np.zeros(2 * edge - 1)
    point[edge - 1] = 1
    expected = scipy.ndimage.gaussian_filter1d(point, edge / 4, mode="constant", truncate=10)[::2]
    profile = gaussian_profile(edge)
    assert profile == pytest.approx(expected / expected.max(), rel=1e-6)
    assert np.array_equal(profile, profile[::-1])


@pytest.mark.parametrize("patch", [(16, 20, 24), (7, 9, 32), (5, 1, 12), (56, 40), (2, 2, 3), (1, 1, 1)])
def test_shifted_profiles_are_scipys_blurred_point(patch):
    point = np.zeros(patch)
    point[tuple(size // 2 for size in patch)] = 1
    expected = scipy.ndimage.gaussian_filter(point, [size / 8 for size in patch], mode="constant")
    weights = product([gaussian_profile(edge, "shifted") for edge in patch])
    assert weights.min() > 0
    assert np.abs(weights / (expected / expected.max()) - 1).max() < 1e-12


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(*[st.integers(1, 12)] * 3), st.tuples(*[st.integers(0, 25)] * 3), st.sampled_from(["centred", "shifted"])
)
def test_shares_are_weights_over_their_sum_at_each_voxel(patch, more, kind):
    """Against the mean as it is written down: all tiles' weights added up in the whole image, then divided."""
    shape = tuple(edge + beyond for edge, beyond in zip(patch, more, strict=True))
    weights = product([gaussian_profile(edge, kind) for edge in patch])
    sums = np.zeros(shape)
    for tile in tiles(shape, patch):
        sums[tile.box.to_slices()] += weights
    shares = [normalized_tile_weights(size, edge, kind) for size, edge in zip(shape, patch, strict=True)]
    for tile in tiles(shape, patch):
        share = product([axis[number] for axis, number in zip(shares, tile.index, strict=True)])
        np.testing.assert_allclose(share, weights / sums[tile.box.to_slices()], rtol=1e-6)


def product(profiles):
    return functools.reduce(np.multiply.outer, profiles)

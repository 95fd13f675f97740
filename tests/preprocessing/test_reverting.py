"""From prepared grids to the image's: in pieces as in one, against SciPy."""

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from voxfit.core.errors import MemoryLimitError
from voxfit.imaging.geometry import Box, Geometry
from voxfit.preprocessing.case import PreprocessingGeometry
from voxfit.preprocessing.output_resampling import Computed, Regridding, chunk_planes
from voxfit.preprocessing.reverting import column_bytes, columns, regridded, revert_preprocessing, stream_axis

shapes = st.tuples(*[st.integers(1, 12)] * 3)


def values_of(outputs, shape, seed=0):
    return np.random.default_rng(seed).random((outputs, *shape), np.float32)


def zoomed(values, shape, separate_axis=None):
    """Linear by SciPy; nearest along an axis that is apart."""
    result = values.astype(np.float64)
    if separate_axis is not None:
        old, new = values.shape[separate_axis + 1], shape[separate_axis]
        result = result.take(np.floor((np.arange(new) + 0.5) * old / new).astype(int), axis=separate_axis + 1)
    factors = [1, *(new / old for new, old in zip(shape, result.shape[1:], strict=True))]
    return scipy.ndimage.zoom(result, factors, order=1, mode="nearest", grid_mode=True)


class Slabs(Computed):
    """Hands out a slab that the next one overwrites, as sources may."""

    def slabs(self, region, axis, planes):
        for slab in super().slabs(region, axis, planes):
            given = slab.copy()
            yield given
            given[:] = np.nan


@settings(max_examples=150)
@given(shapes, shapes, st.sampled_from([None, 0, 1, 2]), st.data())
def test_any_column_read_in_any_steps_is_scipys_zoom(old, new, separate_axis, data):
    values = values_of(2, old)
    grid = Regridding.of(Slabs(values), new, separate_axis)
    start = tuple(data.draw(st.integers(0, size - 1)) for size in new)
    column = Box(start, tuple(data.draw(st.integers(low + 1, size)) for low, size in zip(start, new, strict=True)))
    axis = data.draw(st.integers(0, 2))
    stream = grid.stream(column, axis)
    first, found = column.start[axis], []
    while first < column.stop[axis]:
        last = data.draw(st.integers(first + 1, column.stop[axis]))
        found.append(stream.read(first, last).copy())
        first = last
    expected = zoomed(values, new, separate_axis)[(slice(None), *column.to_slices())]
    np.testing.assert_allclose(np.concatenate(found, axis=axis + 1), expected, atol=1e-5)


@settings(max_examples=60)
@given(st.integers(1, 4), shapes, shapes, st.integers(2, 9))
def test_columns_cover_everything_once_and_keep_their_limit(outputs, old, new, divisor):
    new = tuple(4 * size for size in new)
    grids = [Regridding.of(Computed(values_of(outputs, old)), new)]
    axis = stream_axis(grids)
    memory = column_bytes(grids, Box.whole(new), axis) // divisor
    try:
        found = columns(grids, axis, memory)
    except MemoryLimitError:
        return
    seen = np.zeros(new, int)
    for box in found:
        seen[box.to_slices()] += 1
        assert box.shape[axis] == new[axis]
        assert column_bytes(grids, box, axis) <= memory
    assert (seen == 1).all()


@settings(max_examples=60)
@given(st.integers(1, 4), shapes, shapes, st.integers(0, 2), st.data())
def test_outputs_of_a_column_are_those_of_the_whole_to_the_last_bit(outputs, old, new, axis, data):
    """So label maps do not depend on the memory limit, wherever two classes are nearly equal."""
    grid = Regridding.of(Computed(values_of(outputs, old)), new, data.draw(st.sampled_from([None, 0, 1, 2])))
    whole = grid.stream(Box.whole(new), axis).read(0, new[axis])
    start = [data.draw(st.integers(0, size - 1)) for size in new]
    stop = [data.draw(st.integers(first + 1, size)) for first, size in zip(start, new, strict=True)]
    start[axis], stop[axis] = 0, new[axis]
    column = Box(tuple(start), tuple(stop))
    stream, middle = grid.stream(column, axis), data.draw(st.integers(0, new[axis]))
    parts = [stream.read(*ends) for ends in ((0, middle), (middle, new[axis])) if ends[0] < ends[1]]
    assert np.array_equal(np.concatenate(parts, axis=axis + 1), whole[(slice(None), *column.to_slices())])


@pytest.mark.parametrize("memory", [None, 6_000_000])
def test_an_ensemble_is_averaged_where_the_image_is(memory):
    geometry = Geometry((40, 50, 60), (1.0, 1.0, 1.0))
    crop = Box((3, 5, 7), (37, 45, 52))
    parts, mean = [], 0
    for seed, shape in enumerate([(34, 40, 45), (20, 33, 60)]):
        values = values_of(5, shape, seed)
        parts.append((Computed(values), PreprocessingGeometry(geometry, crop, shape)))
        mean = mean + zoomed(values, crop.shape) ** 2 / 2
    found = revert_preprocessing(
        parts, lambda outputs: outputs.argmax(axis=0).astype(np.uint8), lambda part: part**2, memory
    )
    ordered = np.sort(mean, axis=0)
    clear = ordered[-1] - ordered[-2] > 1e-5
    assert np.array_equal(found[crop.to_slices()][clear], mean.argmax(axis=0)[clear])
    assert clear.mean() > 0.999
    found[crop.to_slices()] = 0
    assert not found.any()


def test_a_limit_that_no_column_keeps_is_refused():
    grids = [Regridding.of(Computed(values_of(3, (9, 9, 9))), (20, 20, 20))]
    with pytest.raises(MemoryLimitError, match=r"take .* 0 MiB are left"):
        regridded(grids, lambda outputs: outputs.argmax(axis=0), memory=1000)


def test_pieces_are_thin_where_planes_are_large():
    small = [Regridding.of(Computed(values_of(2, (8, 8, 8))), (8, 8, 8))]
    many = [Regridding.of(Computed(np.broadcast_to(np.float32(0), (100, 8, 512, 512))), (8, 512, 512))]
    assert chunk_planes(small, Box.whole((8, 8, 8)), 0) >= 8
    assert chunk_planes(many, Box.whole((8, 512, 512)), 0) == 1


def test_several_parts_are_averaged_and_not_added_up():
    """For regions it matters: each is where its probability is more than a half."""
    geometry = Geometry((4, 5, 6), (1.0, 1.0, 1.0))
    likely = values_of(2, (4, 5, 6))
    parts = [
        (Computed(likely * share), PreprocessingGeometry(geometry, Box.whole((4, 5, 6)), (4, 5, 6)))
        for share in (1.0, 0.5, 0.3)
    ]
    found = revert_preprocessing(parts, lambda outputs: (outputs[0] > 0.5).astype(np.uint8))
    assert np.array_equal(found, likely[0] * 1.8 / 3 > 0.5)
    assert 0 < found.mean() < (likely[0] > 0.5).mean()

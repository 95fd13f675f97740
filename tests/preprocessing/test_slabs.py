"""Outputs that come slab by slab, as many planes at a time as a source likes, are those of the whole."""

import itertools

import numpy as np
import pytest

from voxfit.imaging.geometry import Box
from voxfit.preprocessing.output_resampling import Computed, Regridding


class ThinSlabs(Computed):
    """A slab has a few planes only, and the next one overwrites it."""

    def slabs(self, region, axis, planes):
        for slab in super().slabs(region, axis, min(planes, 2)):
            given = slab.copy()
            yield given
            given[:] = np.nan


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("step", [1, 2, 5])
@pytest.mark.parametrize("new", [(13, 17, 11), (5, 7, 6)])
def test_planes_between_two_slabs_are_made_of_both(axis, step, new):
    values = np.random.default_rng(0).random((2, 9, 8, 10), np.float32)
    whole = Regridding.of(Computed(values), new).stream(Box.whole(new), axis).read(0, new[axis])
    stream = Regridding.of(ThinSlabs(values), new).stream(Box.whole(new), axis)
    ends = [*range(0, new[axis], step), new[axis]]
    parts = [stream.read(first, last).copy() for first, last in itertools.pairwise(ends)]
    assert np.array_equal(np.concatenate(parts, axis=axis + 1), whole)

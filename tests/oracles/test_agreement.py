"""How agreement is judged; this needs no nnU-Net."""

import numpy as np
import pytest
from agreement import compare


def pair(different, shape=(50, 50, 50)):
    """Two label maps of two labels, in which so many voxels of label 1 differ."""
    ours = np.zeros(shape, np.uint8)
    ours[10:40], ours[40:] = 1, 2
    theirs = ours.copy()
    theirs[20].flat[:different] = 0
    return ours, theirs


def test_every_voxel_means_every_voxel():
    compare([pair(0), pair(0)], (1, 2)).check((1, 2), most=0)
    with pytest.raises(AssertionError, match="1 of 250000 voxels differ"):
        compare([pair(0), pair(1)], (1, 2)).check((1, 2), most=0)


def test_a_share_of_them():
    found = compare([pair(120)], (1, 2))
    assert (found.different, found.equal) == (120, 1 - 120 / 125000)
    found.check((1, 2), most=found.voxels // 1000)
    with pytest.raises(AssertionError, match="differ"):
        compare([pair(126)], (1, 2)).check((1, 2), most=125)


def test_networks_that_see_nothing():
    nothing = np.zeros((4, 4, 4), np.uint8)
    with pytest.raises(AssertionError, match="see nothing"):
        compare([(nothing, nothing)], (1, 2)).check((1, 2), most=0)

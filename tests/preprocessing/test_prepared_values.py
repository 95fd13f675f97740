"""Prepared images and masks, against scikit-image and SciPy."""

import numpy as np
import scipy.ndimage
from skimage.transform import resize

from voxfit.imaging.geometry import Geometry
from voxfit.imaging.volume import Volume
from voxfit.planning.grid import Divide, Grid, ZScore
from voxfit.preprocessing.case import OUTSIDE, prepare


def test_images_are_resampled_by_a_cubic_spline():
    image = np.random.default_rng(0).normal(10, 1, (1, 10, 12, 14)).astype(np.float32)
    grid = Grid(spacing_mm=(1.5, 0.8, 1.2), normalization=(Divide(by=1.0),))
    made = prepare(Volume(image.copy(), Geometry((10, 12, 14), (1.0, 1.0, 1.0))), grid).image[0]
    assert made.shape == (7, 15, 12)
    cubic, linear = (
        resize(image[0], made.shape, order=order, mode="edge", anti_aliasing=False, clip=False) for order in (3, 1)
    )
    assert np.allclose(made, cubic, atol=1e-4)
    assert np.abs(cubic - linear).max() > 0.1


def test_a_hole_that_meets_the_outside_at_an_edge_only_is_filled():
    image = np.ones((1, 9, 9, 9), np.float32)
    image[0, 3:5, 3:5, 3:5] = 0
    image[0, 5:, 5:, 3:5] = 0  # from the far sides up to an edge of the hole
    filled = scipy.ndimage.binary_fill_holes(image[0] != 0)
    assert filled[3:5, 3:5, 3:5].all()
    assert not filled.all()
    grid = Grid(spacing_mm=(1.0, 1.0, 1.0), normalization=(ZScore(inside_mask=True),))
    label = np.zeros((9, 9, 9), np.int16)
    made = prepare(Volume(image, Geometry((9, 9, 9), (1.0, 1.0, 1.0))), grid, label)
    assert np.array_equal(made.label != OUTSIDE, filled)

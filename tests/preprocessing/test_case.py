"""A case there and back: cropping, grids, masks; overlays checked by SimpleITK."""

import numpy as np
import pytest
import scipy.ndimage
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from voxfit.imaging.geometry import Geometry
from voxfit.imaging.volume import Volume, to_sitk
from voxfit.planning.grid import Grid, ZScore
from voxfit.preprocessing.case import OUTSIDE, prepare

OBLIQUE = tuple(np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0].ravel().tolist())


def grid(*spacing, masked=False):
    return Grid(spacing_mm=spacing, normalization=(ZScore(inside_mask=masked),))


def volume(shape, spacing=(1.0, 1.0, 1.0), seed=0, **geometry):
    image = np.random.default_rng(seed).random((1, *shape)).astype(np.float32) + 0.1
    return Volume(image, Geometry(shape, spacing, **geometry))


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(1, 20)] * 3), st.tuples(*[st.floats(0.3, 5)] * 3), st.integers(0, 1000))
def test_labels_on_their_own_grid_come_back_identical(shape, spacing, seed):
    rng = np.random.default_rng(seed)
    case = volume(shape, spacing, seed)
    case.array[0][rng.random(shape) < 0.3] = 0  # some cropping
    label = rng.integers(0, 4, shape).astype(np.int16)
    label[case.array[0] == 0] = 0
    prepared = prepare(case, grid(*spacing), label)
    one_hot = np.stack([prepared.label == index for index in range(4)]).astype(np.float32)
    assert np.array_equal(prepared.placement.restore(one_hot), label)


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(1, 20)] * 3), st.tuples(*[st.floats(0.3, 5)] * 3), st.tuples(*[st.floats(0.3, 5)] * 3))
def test_any_grid_is_left_and_found_again(shape, spacing, target):
    case = volume(shape, spacing)
    placement = prepare(case, grid(*target)).placement
    assert placement.restore(np.ones((2, *placement.shape), np.float32)).shape == shape


@pytest.mark.parametrize("direction", [tuple(np.eye(3).ravel()), (-1, 0, 0, 0, 1, 0, 0, 0, -1), OBLIQUE])
def test_a_ball_stays_where_it_is_in_space(direction):
    shape, spacing = (24, 40, 36), (3.0, 1.1, 1.3)
    geometry = Geometry(shape, spacing, (12.0, -30.0, 55.0), tuple(float(value) for value in direction))
    image = np.zeros(shape, np.float32)
    image[3:-2, 4:-5, 2:-3] = 1.0  # the rest is cropped
    axes = np.meshgrid(*[np.arange(size) * step for size, step in zip(shape, spacing, strict=True)], indexing="ij")
    ball = sum((axis - middle) ** 2 for axis, middle in zip(axes, (36, 22, 24), strict=True)) < 12**2
    prepared = prepare(Volume(image[None], geometry), grid(1.5, 1.5, 1.5), ball.astype(np.int16))
    one_hot = np.stack([prepared.label == 0, prepared.label == 1]).astype(np.float32)
    restored = to_sitk(prepared.placement.restore(one_hot), geometry)
    reference = to_sitk(ball.astype(np.uint8), geometry)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(reference, restored)
    assert overlap.GetDiceCoefficient() > 0.93
    shapes = sitk.LabelShapeStatisticsImageFilter()
    centres = []
    for item in (reference, restored):
        shapes.Execute(item)
        centres.append(np.array(shapes.GetCentroid(1)))
    assert np.linalg.norm(centres[0] - centres[1]) < 0.3


def test_the_mask_travels_as_a_label_and_has_its_holes_filled():
    image = np.zeros((1, 12, 12, 12), np.float32)
    image[0, 2:10, 2:10, 2:10] = np.random.default_rng(0).random((8, 8, 8)) + 1
    image[0, 2, 2, 2] = 0  # outside: a corner of the crop
    image[0, 5, 5, 5] = 0  # a hole: inside
    label = np.zeros((12, 12, 12), np.int16)
    label[4:6, 4:6, 4:6] = 1
    prepared = prepare(Volume(image, Geometry((12, 12, 12), (1.0, 1.0, 1.0))), grid(1.0, 1.0, 1.0, masked=True), label)
    expected = scipy.ndimage.binary_fill_holes(image[0] != 0)[2:10, 2:10, 2:10]
    assert np.array_equal(prepared.label != OUTSIDE, expected)
    assert not prepared.image[0][~expected].any()
    assert prepared.image[0][expected].mean() == pytest.approx(0, abs=1e-5)


def test_an_all_zero_image_is_kept_whole():
    case = Volume(np.zeros((1, 4, 5, 6), np.float32), Geometry((4, 5, 6), (1.0, 1.0, 1.0)))
    prepared = prepare(case, grid(1.0, 1.0, 1.0, masked=True), np.zeros((4, 5, 6), np.int16))
    assert prepared.image.shape == (1, 4, 5, 6)
    assert not prepared.image.any()

"""Morphology of the previous stage's segmentation against scikit-image; removal against SciPy's components."""

import numpy as np
import pytest
import scipy.ndimage
import skimage.morphology

from voxfit.learning.previous_stage import closed, corrupt_segmentation, dilate, erode, opened
from voxfit.planning.recipes import PreviousStageAugmentation


def blobs(seed, shape=(24, 26, 28), level=0.3):
    noise = scipy.ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 3)
    return noise > level * noise.max()


@pytest.mark.parametrize("radius", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("ours", "theirs"), [(dilate, skimage.morphology.dilation), (erode, skimage.morphology.erosion)]
)
def test_balls_are_those_of_scikit_image(radius, ours, theirs):
    mask = blobs(radius)
    # Both are compared where the border of the volume plays no part.
    inner = (slice(radius, -radius),) * 3
    assert np.array_equal(ours(mask, radius)[inner], theirs(mask, skimage.morphology.ball(radius))[inner])


@pytest.mark.parametrize("radius", [1, 4, 8, 11, 12, 30])
@pytest.mark.parametrize("seed", [0, 1])
def test_balls_are_those_of_a_distance_transform(radius, seed):
    """To the border of the patch, which is smaller than the largest of them."""
    mask = blobs(seed, (20, 30, 25))
    assert np.array_equal(dilate(mask, radius), scipy.ndimage.distance_transform_edt(~mask) <= radius)
    assert np.array_equal(erode(mask, radius), scipy.ndimage.distance_transform_edt(mask) > radius)


@pytest.mark.parametrize("radius", [1, 3])
def test_opening_and_closing(radius):
    mask = blobs(9)
    inner = (slice(2 * radius, -2 * radius),) * 3
    ball = skimage.morphology.ball(radius)
    assert np.array_equal(opened(mask, radius)[inner], skimage.morphology.opening(mask, ball)[inner])
    assert np.array_equal(closed(mask, radius)[inner], skimage.morphology.closing(mask, ball)[inner])


def test_empty_and_full_masks_stay():
    for mask in (np.zeros((4, 4, 4), bool), np.ones((4, 4, 4), bool)):
        for operation in (dilate, erode, opened, closed):
            assert np.array_equal(operation(mask, 2), mask)


def test_nothing_happens_with_probability_zero_and_something_with_one():
    segmentation = (blobs(1).astype(np.int16) + blobs(2)).astype(np.int16)
    never = PreviousStageAugmentation(morphology_probability=0.0, removal_probability=0.0)
    always = PreviousStageAugmentation(morphology_probability=1.0, removal_probability=0.0)
    copy = segmentation.copy()
    assert np.array_equal(
        corrupt_segmentation(np.random.default_rng(0), segmentation, 2, never, segmentation.size), segmentation
    )
    changed = [
        corrupt_segmentation(np.random.default_rng(seed), segmentation, 2, always, segmentation.size)
        for seed in range(8)
    ]
    assert sum(not np.array_equal(item, segmentation) for item in changed) >= 7
    assert all(set(np.unique(item)) <= {0, 1, 2} for item in changed)
    assert np.array_equal(segmentation, copy)


def ball_of(operation, mask, radius):
    """By distances to the nearest voxel outside, or inside; [T7]."""
    grown = scipy.ndimage.distance_transform_edt(~mask) <= radius
    shrunk = scipy.ndimage.distance_transform_edt(mask) > radius
    match operation:
        case "dilation":
            return grown
        case "erosion":
            return shrunk
        case "opening":
            return scipy.ndimage.distance_transform_edt(~shrunk) <= radius
        case "closing":
            return scipy.ndimage.distance_transform_edt(grown) > radius


def test_a_class_is_changed_in_each_way_with_each_radius_and_no_other():
    """Also the smallest and the largest; what a class leaves is background, what it reaches was another class."""
    rng = np.random.default_rng(0)
    segmentation = np.zeros((24, 26, 28), np.int16)
    segmentation[4:20, 4:20, 4:20] = rng.random((16, 16, 16)) < 0.995  # with holes, which closing fills
    segmentation[7:9, 22:25, 7:9] = 1  # thin, which opening removes
    segmentation[:, :, 21:] = 2
    mask = segmentation == 1
    settings = PreviousStageAugmentation(morphology_probability=1.0, removal_probability=0.0, radius=(1, 3))
    ways = [(way, radius) for way in ("dilation", "erosion", "opening", "closing") for radius in (1, 2, 3)]
    expected = {way: ball_of(way[0], mask, way[1]) for way in ways}
    seen = dict.fromkeys(ways, 0)
    for seed in range(120):
        result = corrupt_segmentation(np.random.default_rng(seed), segmentation, 1, settings, segmentation.size)
        found = [way for way in ways if np.array_equal(result == 1, expected[way])]
        assert found
        np.testing.assert_array_equal(result == 2, (segmentation == 2) & ~expected[found[0]])
        for way in found:
            seen[way] += 1
    assert min(seen.values()) > 0, seen  # by chance, one of twelve is missing once in 3000 times


def test_one_small_component_of_each_class_is_removed():
    segmentation = np.zeros((20, 20, 20), np.int16)
    segmentation[0:10, 0:18, 0:18] = 1  # more than 15 % of the patch: stays
    segmentation[15:17, 2:4, 2:4] = 1
    segmentation[15:17, 10:12, 10:12] = 1
    segmentation[12:14, 15:19, 15:19] = 2
    settings = PreviousStageAugmentation(morphology_probability=0.0, removal_probability=1.0)
    survivors = set()
    for seed in range(20):
        result = corrupt_segmentation(np.random.default_rng(seed), segmentation, 2, settings, segmentation.size)
        _, count = scipy.ndimage.label(result == 1, np.ones((3, 3, 3)))
        assert count == 2
        assert np.array_equal(result[0:10, 0:18, 0:18], segmentation[0:10, 0:18, 0:18])
        assert not (result == 2).any()
        survivors.add(bool(result[15, 2, 2]))
    assert survivors == {True, False}

"""Augmentation applied with known parameters, against NumPy and SciPy."""

import itertools

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from augmented import augmented
from voxfit.imaging.geometry import Box, cut
from voxfit.learning.augmentation import draw_parameters, list_transforms
from voxfit.learning.randomness import RandomStreams
from voxfit.learning.spatial import Elastic, Spatial, draw_spatial, rotation
from voxfit.learning.warping import gather, sample_grid, warp
from voxfit.planning.recipes import Recipe, recipe_named

RECIPE = Recipe()


def apply(image, label, spatial, patch):
    """Cut what is needed from a whole case and transform it."""
    box = spatial.source_box(patch)
    source = torch.from_numpy(cut(image, box))[None]
    layer = torch.from_numpy(cut(label, box))[None]
    moved, labels = warp([source], [layer], [spatial], patch.shape)
    return moved[0, 0].numpy(), labels[0, 0].numpy()


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    return rng.normal(size=(20, 22, 24)).astype(np.float32), rng.integers(0, 4, (20, 22, 24)).astype(np.int16)


PATCH = Box((4, 5, 6), (14, 15, 16))


def test_the_identity_is_the_patch(case):
    image, label = case
    moved, labels = apply(image, label, Spatial(), PATCH)
    assert np.array_equal(moved, image[PATCH.to_slices()])
    assert np.array_equal(labels, label[PATCH.to_slices()])


def test_an_identity_matrix_is_the_patch_too(case):
    image, label = case
    moved, labels = apply(image, label, Spatial(matrix=np.eye(3)), PATCH)
    assert moved == pytest.approx(image[PATCH.to_slices()], abs=1e-4)
    assert np.array_equal(labels, label[PATCH.to_slices()])


@pytest.mark.parametrize(("axis", "plane"), [(0, (1, 2)), (1, (0, 2)), (2, (0, 1))])
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_equal_numpy(case, axis, plane, turns):
    image, label = case
    angles = np.zeros(3)
    angles[axis] = turns * np.pi / 2
    moved, labels = apply(image, label, Spatial(matrix=rotation(angles)), PATCH)
    inner = image[PATCH.to_slices()], label[PATCH.to_slices()]
    matches = [
        sign
        for sign in (1, -1)
        if np.allclose(moved, np.rot90(inner[0], sign * turns, plane), atol=1e-3)
        and np.array_equal(labels, np.rot90(inner[1], sign * turns, plane))
    ]
    assert matches


def test_a_plane_turns_like_numpy():
    image = np.random.default_rng(0).normal(size=(15, 15)).astype(np.float32)
    moved, _ = apply(
        image, np.zeros((15, 15), np.int16), Spatial(matrix=rotation(np.array([np.pi / 2]))), Box((2, 2), (13, 13))
    )
    inner = image[2:13, 2:13]
    assert any(np.allclose(moved, np.rot90(inner, turn), atol=1e-3) for turn in (1, -1))


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_any_draw_equals_scipy_on_the_whole_case(seed):
    """The needed box gives what SciPy interpolates from the whole image at the same coordinates."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(26, 24, 22)).astype(np.float32)
    label = rng.integers(0, 3, image.shape).astype(np.int16)
    patch = Box((-2, 3, 8), (14, 19, 20))
    matrix = rotation(rng.uniform(-0.3, 0.3, 3)) * rng.uniform(0.85, 1.25)
    noise = rng.random((3, *patch.shape), dtype=np.float32) * 2 - 1
    elastic = Elastic(float(rng.uniform(0, 900)), float(rng.uniform(9, 13)), noise)
    moved, labels = apply(image, label, Spatial(matrix, elastic), patch)

    field = np.stack(
        [
            scipy.ndimage.gaussian_filter(axis, elastic.sigma, mode="constant", truncate=12)
            for axis in noise.astype(float)
        ]
    )
    field = np.clip(field * elastic.amplitude, -elastic.reach, elastic.reach)
    steps = [np.arange(size) - (size - 1) / 2 for size in patch.shape]
    offsets = np.stack(np.meshgrid(*steps, indexing="ij")).reshape(3, -1)
    centre = np.array(patch.start) + (np.array(patch.shape) - 1) / 2
    where = (matrix @ offsets + centre[:, None] + field.reshape(3, -1)).reshape(3, *patch.shape)
    padded = np.pad(image, 40), np.pad(label, 40)
    expected = scipy.ndimage.map_coordinates(padded[0], where + 40, order=1)
    assert np.abs(moved - expected).max() < 5e-3 * np.abs(image).max()
    nearest = scipy.ndimage.map_coordinates(padded[1], where + 40, order=0)
    # A coordinate halfway between two voxels may fall to either side.
    assert (labels == nearest).mean() > 0.999


@pytest.mark.parametrize("patch", [(10, 10, 10), (48, 40, 56), (1, 7, 9)])
def test_gathering_equals_grid_sample(patch):
    """Both ways through a volume, with two channels and two layers, over several slabs."""
    rng = np.random.default_rng(3)
    noise = rng.random((3, *patch), dtype=np.float32) * 2 - 1
    item = Spatial(rotation(np.array([0.3, -0.2, 0.1])) * 0.9, Elastic(500.0, 9.0, noise))
    box = item.source_box(Box((0, 0, 0), patch))
    image = torch.from_numpy(rng.normal(size=(2, *box.shape)).astype(np.float32))
    label = torch.from_numpy(rng.integers(-2, 4, (2, *box.shape)).astype(np.int16))
    moved, layers = torch.empty(2, *patch), torch.empty(2, *patch, dtype=torch.int16)
    gather(image, label, item, moved, layers)
    other, nearest = sample_grid([image], [label], [item], patch)
    # Coordinates of up to 100 are rounded to 1e-5, and neighbours differ by up to 8.
    assert (moved - other[0]).abs().max() < 1e-3
    assert (layers != nearest[0]).float().mean() < 1e-3


def test_labels_are_never_invented(case):
    image, label = case
    label = label * 7
    moved = Spatial(matrix=rotation(np.array([0.2, -0.1, 0.3])) * 1.1)
    _, labels = apply(image, label, moved, PATCH)
    assert set(np.unique(labels)) <= set(np.unique(label))


def test_samples_of_different_boxes_do_not_touch_each_other(case):
    image, label = case
    draws = [Spatial(matrix=rotation(np.array([angle, 0, 0]))) for angle in (0.1, 0.7)] + [Spatial()]
    boxes = [item.source_box(PATCH) for item in draws]
    together, _ = warp(
        [torch.from_numpy(cut(image, box))[None] for box in boxes],
        [torch.from_numpy(cut(label, box))[None] for box in boxes],
        draws,
        PATCH.shape,
    )
    for index, item in enumerate(draws):
        alone, _ = apply(image, label, item, PATCH)
        assert together[index, 0].numpy() == pytest.approx(alone, abs=1e-4)


def test_mirroring_equals_numpy():
    """Images and labels."""
    batch = np.random.default_rng(0).normal(size=(3, 2, 4, 5, 6)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 9, (3, 2, 4, 5, 6)).astype(np.int16)
    flips = [(0, 2), (), (1,)]
    drawn = [{"mirroring": axes} for axes in flips]
    image, label = augmented(torch.from_numpy(batch.copy()), drawn, torch.from_numpy(labels.copy()))
    for index, axes in enumerate(flips):
        assert np.array_equal(image[index].numpy(), np.flip(batch[index], [axis + 1 for axis in axes]))
        assert np.array_equal(label[index].numpy(), np.flip(labels[index], [axis + 1 for axis in axes]))


@pytest.mark.parametrize("exponent", [0.7, 1.0, 1.5])
def test_gamma_keeps_mean_and_deviation(exponent):
    batch = np.random.default_rng(0).gamma(2, 1, size=(2, 2, 8, 8, 8)).astype(np.float32)
    result = augmented(torch.from_numpy(batch.copy()), [{"gamma": (exponent, 1.0)}, {}])[0].numpy()
    assert np.array_equal(result[1], batch[1])
    part = batch[0, 0]
    bent = ((part - part.min()) / np.ptp(part)) ** exponent
    expected = (bent - bent.mean()) / bent.std() * part.std() + part.mean()
    assert result[0, 0] == pytest.approx(expected, abs=1e-3)
    assert result[0, 1] == pytest.approx(batch[0, 1], abs=1e-3)
    assert np.all(np.diff(result[0, 0].ravel()[np.argsort(part, axis=None)]) >= -1e-5)


@pytest.mark.parametrize(
    ("settings_", "patch"), [(RECIPE.augmentation_3d, (40, 56, 40)), (RECIPE.augmentation_2d, (56, 40))]
)
def test_draws_keep_to_their_probabilities_and_ranges(settings_, patch):
    count = 3000
    draws = [draw_spatial(RandomStreams([index]), settings_, patch) for index in range(count)]
    transforms = list_transforms(settings_, channels=1, mirror_axes=len(patch))
    others = [draw_parameters(transforms, RandomStreams([index])) for index in range(count)]
    # Rotation or scaling: 1 - 0.8^2; six standard deviations of a binomial.
    for share, expected in (
        (sum(item.matrix is not None for item in draws) / count, 0.36),
        (sum(item.elastic is not None for item in draws) / count, 0.2),
        (sum("gamma" in item for item in others) / count, 0.3),
        *((sum(axis in item["mirroring"] for item in others) / count, 0.5) for axis in range(len(patch))),
    ):
        assert abs(share - expected) < 6 * np.sqrt(expected * (1 - expected) / count)
    scales = [abs(np.linalg.det(item.matrix)) ** (1 / len(patch)) for item in draws if item.matrix is not None]
    assert min(scales) >= 0.85 - 1e-9
    assert max(scales) <= 1.25 + 1e-9
    gammas = [item["gamma"][0] for item in others if "gamma" in item]
    assert 0.7 <= min(gammas) < 0.8
    assert 1.4 < max(gammas) <= 1.5
    amplitudes = [item.elastic.amplitude for item in draws if item.elastic]
    assert max(amplitudes) <= settings_.elastic_amplitude[1]


@pytest.mark.parametrize(
    ("settings_", "patch"), [(RECIPE.augmentation_3d, (40, 56, 40)), (RECIPE.augmentation_2d, (56, 40))]
)
def test_turns_go_both_ways(settings_, patch):
    """About each axis: the sign of what takes one axis to another."""
    draws = [draw_spatial(RandomStreams([index]), settings_, patch) for index in range(2000)]
    turned = np.array([item.matrix - item.matrix.T for item in draws if item.matrix is not None])
    for one, other in itertools.combinations(range(len(patch)), 2):
        senses = np.sign(turned[:, one, other])
        senses = senses[senses != 0]
        assert len(senses) > 300
        assert abs(senses.mean()) < 6 / np.sqrt(len(senses))


@pytest.mark.parametrize(("patch", "largest"), [((56, 40), 180), ((80, 40), 15)])
def test_stretched_planes_turn_less(patch, largest):
    draws = [draw_spatial(RandomStreams([index]), RECIPE.augmentation_2d, patch) for index in range(2000)]
    angles = [
        abs(np.degrees(np.arctan2(item.matrix[1, 0], item.matrix[0, 0]))) for item in draws if item.matrix is not None
    ]
    assert 0.9 * largest < max(angles) <= largest + 1e-6


TRANSFORMS = list_transforms(
    recipe_named("nnunet-v2").augmentation_3d,
    channels=2,
    mirror_axes=3,
    masked_channels=(1,),
    added={"mine": lambda image, label, rng: (image, label), "noise": lambda image, label, rng: (image, label)},
)


@settings(max_examples=100, deadline=None)
@given(st.permutations(TRANSFORMS), st.integers(0, len(TRANSFORMS)), st.integers(0, 10_000))
def test_an_augmentation_draws_the_same_whatever_others_there_are(order, kept, seed):
    """Removed, added or reordered: those of voxfit and those of other packages alike."""
    every = draw_parameters(TRANSFORMS, RandomStreams([seed]))
    names = {transform.name for transform in order[:kept]}
    assert len({transform.name for transform in TRANSFORMS}) == len(TRANSFORMS)
    assert draw_parameters(order[:kept], RandomStreams([seed])) == {
        name: value for name, value in every.items() if name in names
    }


@settings(max_examples=100, deadline=None)
@given(st.sets(st.sampled_from(["rotation", "scale", "elastic"])), st.integers(0, 10_000))
def test_a_spatial_augmentation_draws_the_same_whatever_others_there_are(removed, seed):
    always = RECIPE.augmentation_2d.revised(rotation_probability=1.0, scale_probability=1.0, elastic_probability=1.0)
    some = always.revised(**{f"{name}_probability": 0.0 for name in removed})
    all_of_them, left = (draw_spatial(RandomStreams([seed]), chosen, (9, 7)) for chosen in (always, some))
    factor = np.sqrt(np.linalg.det(all_of_them.matrix))
    expected = np.eye(2) if "rotation" in removed else all_of_them.matrix / factor
    if "scale" not in removed:
        expected = expected * factor
    assert (left.matrix is None) == ({"rotation", "scale"} <= removed)
    assert left.matrix is None or left.matrix == pytest.approx(expected)
    assert (left.elastic is None) == ("elastic" in removed)
    assert left.elastic is None or np.array_equal(left.elastic.noise, all_of_them.elastic.noise)


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=5), st.lists(st.text(max_size=5), max_size=6))
def test_a_stream_follows_from_counters_and_name_alone(counters, names):
    """Whatever was drawn from it, and from others, before."""
    used = RandomStreams(counters)
    for name in names:
        rng = used.of(name)
        rng.random(3, dtype=np.float32)
        rng.integers(2**20)
    for name in names:
        fresh = RandomStreams(counters).of(name).random(5)
        assert np.array_equal(used.of(name).random(5), fresh)
        assert not np.array_equal(RandomStreams([*counters, 1]).of(name).random(5), fresh)
        assert not np.array_equal(RandomStreams(counters).of(name + "2").random(5), fresh)

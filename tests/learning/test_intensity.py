"""Changes of intensity with known parameters, against NumPy and SciPy; their draws, counted."""

import itertools

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from augmented import augmented
from builders.records import configuration_of
from builders.stores import write_store
from voxfit.core.errors import RecordError
from voxfit.imaging.labels import Label, Labels
from voxfit.learning.augmentation import draw_parameters, list_transforms
from voxfit.learning.intensity import (
    Noise,
    add_noise,
    blur,
    gamma_correct,
    simulate_low_resolution,
    stretch_contrast,
)
from voxfit.learning.randomness import RandomStreams
from voxfit.learning.sampling import TRAINING, VALIDATION, PatchSampler
from voxfit.learning.spatial import draw_spatial
from voxfit.planning.grid import ZScore
from voxfit.planning.recipes import IntensitySet, Recipe
from voxfit.preprocessing.case import OUTSIDE

PAPER = Recipe()
ALWAYS = IntensitySet(
    noise_probability=1.0,
    blur_probability=1.0,
    brightness_probability=1.0,
    contrast_probability=1.0,
    resolution_probability=1.0,
    inverted_gamma_probability=1.0,
)
KINDS = {
    "3d": (PAPER.augmentation_3d, (6, 7, 8), 3, 2),
    "2d": (PAPER.augmentation_2d, (9, 7), 2, 1),
    "slices": (PAPER.augmentation_2d, (9, 8), 3, 3),
}
SHAPES = [(9, 11), (7, 9, 11)]


def sample(shape, seed=0):
    return np.random.default_rng(seed).gamma(2, 1, shape).astype(np.float32)


def tensor(array):
    return torch.from_numpy(array.copy())


def draw(seed, settings_, axes=3, channels=1):
    """All but the spatial parameters of a sample."""
    return draw_parameters(list_transforms(settings_, channels=channels, mirror_axes=axes), RandomStreams([seed]))


def draw_intensity(seed, intensity, channels):
    """Only the changes of intensity."""
    drawn = draw(seed, PAPER.augmentation_3d.revised(intensity=intensity), channels=channels)
    return {name: value for name, value in drawn.items() if name not in ("mirroring", "gamma")}


# Written without torch, as the formulas are described.


def numpy_blur(channel, sigmas):
    radius = [int(3 * sigma + 0.25) for sigma in sigmas]
    return scipy.ndimage.gaussian_filter(channel.astype(float), sigmas, mode="mirror", radius=radius)


def numpy_contrast(channel, factor):
    mean = channel.mean()
    return np.clip((channel - mean) * factor + mean, channel.min(), channel.max())


def numpy_gamma(channel, exponent):
    bent = ((channel - channel.min()) / np.ptp(channel)) ** exponent
    return (bent - bent.mean()) / bent.std() * channel.std() + channel.mean()


def numpy_coarse(channel, shape):
    result = channel.astype(float)
    for axis, coarse in enumerate(shape):
        size = channel.shape[axis]
        nearest = np.floor((np.arange(coarse) + np.float32(0.5)) * np.float32(size / coarse)).astype(int)
        result = result.take(np.minimum(nearest, size - 1), axis)
    for axis, coarse in enumerate(shape):
        size = channel.shape[axis]
        where = (np.arange(size) + 0.5) * coarse / size - 0.5
        result = np.apply_along_axis(lambda line, at=where: np.interp(at, np.arange(len(line)), line), axis, result)
    return result


# What the paper's set draws.


def either_side(rng, low, high):
    """Below and above 1 with equal chance."""
    return rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high)


def paper_draw(streams, patch, axes, channels, degrees, amplitude):
    """What method.md [T5] says, written out: matrix, elastic (amplitude, sigma, noise), gamma, mirrored axes."""
    matrix = elastic = gamma = None
    rng = streams.of("rotation")
    if rng.random() < 0.2:
        angles = rng.uniform(-degrees, degrees, 3 if len(patch) == 3 else 1)
        if len(patch) == 3:  # about z, y and x, one after another; scipy's y axis points the other way
            matrix = Rotation.from_euler("XYZ", angles * (1, -1, 1), degrees=True).as_matrix()
        else:
            matrix = Rotation.from_euler("z", angles[0], degrees=True).as_matrix()[:2, :2]
    rng = streams.of("scaling")
    if rng.random() < 0.2:
        matrix = (np.eye(len(patch)) if matrix is None else matrix) * either_side(rng, 0.85, 1.25)
    rng = streams.of("elastic")
    if rng.random() < 0.2:
        elastic = (rng.uniform(0, amplitude), rng.uniform(9, 13), rng.random((len(patch), *patch), np.float32) * 2 - 1)
    rng = streams.of("gamma")
    if rng.random() < 0.3:
        gamma = tuple(either_side(rng, 0.7, 1.5) for _ in range(channels))
    rng = streams.of("mirroring")
    assert rng.random() < 1
    return matrix, elastic, gamma, tuple(np.flatnonzero(rng.random(axes) < 0.5))


@pytest.mark.parametrize(("kind", "degrees", "amplitude"), [("3d", 15, 900), ("2d", 180, 200), ("slices", 180, 200)])
def test_the_papers_sets_draw_what_the_method_says(kind, degrees, amplitude):
    """Each number of 200 draws."""
    moved = turned = 0
    chosen, patch, axes, channels = KINDS[kind]
    transforms = list_transforms(chosen, channels=channels, mirror_axes=axes)
    for seed in range(200):
        found = draw_spatial(RandomStreams([7, seed]), chosen, patch)
        other = draw_parameters(transforms, RandomStreams([7, seed]))
        matrix, elastic, gamma, mirrored = paper_draw(
            RandomStreams([7, seed]), patch, axes, channels, degrees, amplitude
        )
        assert other.keys() <= {"mirroring", "gamma"}
        assert other["mirroring"] == mirrored
        assert (found.matrix is None, found.elastic is None) == (matrix is None, elastic is None)
        assert ("gamma" not in other) == (gamma is None)
        assert gamma is None or other["gamma"] == pytest.approx(gamma)
        if elastic is not None:
            assert (found.elastic.amplitude, found.elastic.sigma) == pytest.approx(elastic[:2])
            assert np.array_equal(found.elastic.noise, elastic[2])
        if matrix is not None:
            np.testing.assert_allclose(found.matrix, matrix, atol=1e-12)
            moved += 1
            turned += not np.allclose(matrix, np.diag(np.diag(matrix)))
    assert moved > turned > 20


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(40))
def test_other_parameters_do_not_change_with_a_set_of_intensities(kind, seed):
    without, _, axes, channels = KINDS[kind]
    old, new = (draw(seed, chosen, axes, channels) for chosen in (without, without.revised(intensity=ALWAYS)))
    assert {name: new[name] for name in old} == old
    assert len(new) == len(old) + 6


def test_the_paper_has_none_and_a_recipe_with_it_is_read_back():
    assert PAPER.augmentation_2d.intensity is None
    assert PAPER.augmentation_3d.intensity is None
    changed = PAPER.augmentation_3d.model_copy(update={"intensity": IntensitySet(blur_sigma=(0.4, 2.0))})
    recipe = PAPER.model_copy(update={"augmentation_3d": changed})
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_more_than_full_resolution_is_refused():
    text = IntensitySet().to_json().replace("0.5, 1.0", "0.5, 1.5")
    with pytest.raises(RecordError, match="resolution"):
        IntensitySet.from_json(text)


# Draws.


def test_draws_keep_to_their_probabilities():
    """Six standard deviations of a binomial: a right one fails in fewer than 1 of 10^8 runs."""
    count, channels = 4000, 2
    draws = [draw_intensity(index, IntensitySet(), channels) for index in range(count)]
    fields = {"noise": 0.1, "blur": 0.2, "brightness": 0.15, "contrast": 0.15, "low_resolution": 0.25}
    for field, expected in (fields | {"inverted_gamma": 0.1}).items():
        share = sum(field in item for item in draws) / count
        assert abs(share - expected) < 6 * np.sqrt(expected * (1 - expected) / count), field
    for field in ("blur", "low_resolution"):
        each = [value is not None for item in draws for value in item.get(field, ())]
        assert abs(np.mean(each) - 0.5) < 6 * np.sqrt(0.25 / len(each)), field


def test_changes_are_drawn_apart():
    """No pair of changes comes together more or less often than its two probabilities say."""
    even = IntensitySet(**{name: 0.5 for name in IntensitySet.model_fields if name.endswith("_probability")})
    draws = [draw_intensity(index, even, 1) for index in range(2000)]
    names = ("noise", "blur", "brightness", "contrast", "low_resolution", "inverted_gamma")
    for one, other in itertools.combinations(names, 2):
        share = np.mean([one in item and other in item for item in draws])
        assert abs(share - 0.25) < 6 * np.sqrt(0.25 * 0.75 / 2000), (one, other)


def test_draws_keep_to_their_ranges():
    draws = [draw_intensity(index, ALWAYS, 3) for index in range(500)]
    values = {
        "noise": ([item["noise"].deviation for item in draws], 0, 0.1),
        "blur": ([sigma for item in draws for sigmas in item["blur"] if sigmas for sigma in sigmas], 0.5, 1),
        "brightness": ([factor for item in draws for factor in item["brightness"]], 0.75, 1.25),
        "contrast": ([factor for item in draws for factor in item["contrast"]], 0.75, 1.25),
        "low_resolution": ([scale for item in draws for scale in item["low_resolution"] if scale], 0.5, 1),
        "inverted_gamma": ([exponent for item in draws for exponent in item["inverted_gamma"]], 0.7, 1.5),
    }
    for name, (found, low, high) in values.items():
        width = high - low
        assert low <= min(found) < low + 0.03 * width, name
        assert high - 0.03 * width < max(found) <= high, name
        assert len(set(found)) == len(found), name
    # Below and above 1 come equally often, although the part below is narrower.
    below = np.mean([exponent < 1 for exponent in values["inverted_gamma"][0]])
    assert abs(below - 0.5) < 6 * np.sqrt(0.25 / 1500)
    assert len({item["noise"].seed for item in draws}) == len(draws)


def test_nothing_is_drawn_with_probability_zero():
    never = IntensitySet(**{name: 0.0 for name in IntensitySet.model_fields if name.endswith("_probability")})
    assert draw_intensity(0, never, 2) == {}


# Single changes.


def test_noise_has_its_deviation_and_belongs_to_its_seed():
    image = np.zeros((2, 40, 40, 40), np.float32)
    noisy = add_noise(tensor(image), Noise(0.05, 3)).numpy()
    voxels = image[0].size
    for channel in noisy:
        # Six standard errors of a mean, and of a deviation.
        assert abs(channel.mean()) < 6 * 0.05 / np.sqrt(voxels)
        assert abs(channel.std() - 0.05) < 6 * 0.05 / np.sqrt(2 * voxels)
    assert abs(np.corrcoef(noisy[0].ravel(), noisy[1].ravel())[0, 1]) < 6 / np.sqrt(voxels)
    assert np.array_equal(noisy, add_noise(tensor(image), Noise(0.05, 3)).numpy())
    assert not np.array_equal(noisy, add_noise(tensor(image), Noise(0.05, 4)).numpy())


def test_noise_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    add_noise(torch.zeros(1, 5, 5), Noise(0.1, 1))
    assert torch.equal(before, torch.get_rng_state())


@given(
    st.lists(st.tuples(st.integers(2, 9), st.floats(0.1, 2.5)), min_size=2, max_size=3),
    st.integers(0, 1000),
)
@settings(max_examples=50, deadline=None)
def test_blur_equals_scipy(axes, seed):
    """Short edges included: the mirror image is mirrored again where the Gaussian reaches beyond it."""
    image = sample([size for size, _ in axes], seed)
    sigmas = [sigma for _, sigma in axes]
    assert blur(tensor(image)[None], [sigmas])[0].numpy() == pytest.approx(numpy_blur(image, sigmas), abs=1e-5)


def test_blur_keeps_what_is_even_and_a_single_voxel():
    assert blur(torch.full((1, 5, 6, 7), 3.0), [(0.7, 0.8, 0.9)]).numpy() == pytest.approx(3)
    single = sample((1, 8))
    assert blur(tensor(single)[None], [(1.0, 0.1)])[0].numpy() == pytest.approx(single, abs=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("factor", [0.75, 1.0, 1.25])
def test_contrast_equals_numpy(shape, factor):
    image = sample(shape)
    changed = stretch_contrast(tensor(image)[None], [factor])[0].numpy()
    assert changed == pytest.approx(numpy_contrast(image, factor), abs=1e-5)
    assert changed.min() >= image.min()
    assert changed.max() <= image.max()


def test_contrast_keeps_what_is_even():
    assert stretch_contrast(torch.full((1, 3, 4), 2.5), [1.25]).numpy() == pytest.approx(2.5)


@given(st.lists(st.integers(2, 12), min_size=2, max_size=3), st.floats(0.5, 1.0), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_low_resolution_equals_numpy(shape, scale, seed):
    image = sample(shape, seed)
    expected = numpy_coarse(image, [max(round(size * scale), 1) for size in shape])
    assert simulate_low_resolution(tensor(image)[None], [scale])[0].numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_full_resolution_is_the_image(shape):
    image = sample(shape)
    assert np.array_equal(simulate_low_resolution(tensor(image)[None], [1.0])[0].numpy(), image)


@pytest.mark.parametrize("still", [0, 1, 2])
def test_the_still_axis_keeps_its_resolution(still):
    image = sample((6, 8, 10))
    shape = [size if axis == still else round(size * 0.6) for axis, size in enumerate(image.shape)]
    changed = simulate_low_resolution(tensor(image)[None], [0.6], still)[0].numpy()
    assert changed == pytest.approx(numpy_coarse(image, shape), abs=1e-5)
    moved = np.moveaxis(image, still, 0), np.moveaxis(changed, still, 0)
    for before, after in zip(*moved, strict=True):
        assert simulate_low_resolution(tensor(before)[None], [0.6])[0].numpy() == pytest.approx(after, abs=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("exponent", [0.7, 1.0, 1.5])
def test_inverted_gamma_equals_numpy_and_keeps_mean_and_deviation(shape, exponent):
    image = sample((2, *shape))
    changed = gamma_correct(tensor(image), (exponent, 1.0), inverted=True).numpy()
    assert changed[0] == pytest.approx(-numpy_gamma(-image[0], exponent), abs=1e-3)
    assert changed[1] == pytest.approx(image[1], abs=1e-4)
    assert changed.mean(axis=tuple(range(1, image.ndim))) == pytest.approx([part.mean() for part in image], abs=1e-4)
    assert changed.std(axis=tuple(range(1, image.ndim))) == pytest.approx([part.std() for part in image], abs=1e-4)
    assert np.all(np.diff(changed[0].ravel()[np.argsort(image[0], axis=None)]) >= -1e-5)


def test_an_even_image_stays_finite():
    image = torch.full((2, 1, 4, 5, 6), 1.5)
    draws = [draw_intensity(seed, ALWAYS.revised(noise_probability=0.0), 1) for seed in range(2)]
    assert torch.isfinite(augmented(image, draws)[0]).all()


# All of them.

EVERYTHING = {
    "noise": Noise(0.08, 11),
    "blur": ((0.6, 0.7, 0.8), None),
    "brightness": (0.8, 1.2),
    "contrast": (1.25, 0.75),
    "low_resolution": (None, 0.6),
    "inverted_gamma": (0.7, 1.5),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_changes_follow_one_another_in_order(shape):
    image = sample((2, *shape))
    expected = image + 0.08 * torch.randn(image.shape, generator=torch.Generator().manual_seed(11)).numpy()
    expected[0] = numpy_blur(expected[0], (0.6, 0.7, 0.8)[-len(shape) :])
    expected = np.stack([expected[0] * 0.8, expected[1] * 1.2])
    expected = np.stack([numpy_contrast(expected[0], 1.25), numpy_contrast(expected[1], 0.75)])
    expected[1] = numpy_coarse(expected[1], [round(size * 0.6) for size in shape])
    expected = np.stack([-numpy_gamma(-expected[0], 0.7), -numpy_gamma(-expected[1], 1.5)])
    changed, _ = augmented(tensor(image)[None], [EVERYTHING])
    assert changed[0].numpy() == pytest.approx(expected, abs=2e-3)
    # Two neighbours turned round would be seen; but blur, brightness and contrast are linear where nothing is cut.
    parts = [{name: value} for name, value in EVERYTHING.items()]
    for first in (0, 3, 4):
        turned = tensor(image)[None]
        for part in [*parts[:first], parts[first + 1], parts[first], *parts[first + 2 :]]:
            turned, _ = augmented(turned, [part])
        assert (turned - changed).abs().max() > 4e-3, first


def test_samples_do_not_touch_each_other():
    batch = sample((4, 2, 7, 9, 11))
    drawn = [draw_intensity(seed, ALWAYS, 2) for seed in range(2)]
    draws = [drawn[0], {}, drawn[1], {"blur": (None, None)}]
    together = augmented(tensor(batch), draws)[0].numpy()
    for index, one in enumerate(draws):
        alone = augmented(tensor(batch[index : index + 1]), [one])[0].numpy()
        assert np.array_equal(together[index], alone[0])
    assert np.array_equal(together[1], batch[1])
    assert np.array_equal(together[3], batch[3])
    assert together.dtype == np.float32


def test_a_turned_view_is_changed_like_its_copy():
    """Slice-wise patches come with their axes moved, not copied."""
    batch = sample((2, 2, 7, 9, 11))
    view = tensor(batch).movedim(2, 4).contiguous().movedim(4, 2)
    assert not view.is_contiguous()
    changed, expected = (augmented(item, [EVERYTHING, {}], through_plane_axis=0)[0] for item in (view, tensor(batch)))
    assert changed.numpy() == pytest.approx(expected.numpy(), abs=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("shape", SHAPES)
def test_a_gpu_gives_the_same(shape):
    batch = sample((2, 2, *shape))
    there, again = (augmented(tensor(batch).cuda(), [EVERYTHING, {}])[0] for _ in range(2))
    here, _ = augmented(tensor(batch), [EVERYTHING, {}])
    assert there.cpu().numpy() == pytest.approx(here.numpy(), abs=1e-4)
    assert torch.equal(there, again)


def test_voxels_beyond_the_mask_are_cleared_in_masked_channels_of_changed_samples():
    image = sample((2, 3, 4, 5)) + 1
    label = np.zeros((2, 4, 5), np.int16)
    label[:, 0, :3] = OUTSIDE
    label[:, 1, 1] = -2  # without annotation, but inside
    drawn, layer = [{"nonzero_mask": None}, {}], tensor(label)[:, None]
    cleared, _ = augmented(tensor(image), drawn, layer, masked_channels=[0, 2])
    expected = image.copy()
    expected[0, [0, 2], 0, :3] = 0
    assert np.array_equal(cleared.numpy(), expected)
    assert np.array_equal(augmented(tensor(image), drawn, layer)[0].numpy(), image)


# In the sampler.

CONFIGURATIONS = {
    "3d": {"patch": (12, 16, 12)},
    "2d": {"patch": (16, 12), "slice_axis": 0, "slice_spacing": 1.0},
    "slices": {"patch": (4, 16, 12), "augmentation": "2d_slices"},
    "slices along x": {"patch": (16, 12, 4), "augmentation": "2d_slices"},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    image = sample((2, 20, 24, 28)) + 1
    image[:, :, :, 22:] = 0
    image[:, :, 4:8, :9] = 0
    label = np.zeros(image.shape[1:], np.int16)
    label[2:4, 9:12, 2:6] = 1
    return write_store(folder, {"a": (image, label)}, 2, (ZScore(), ZScore(inside_mask=True)))


def sampler(store, kind, intensity, masked_channels=()):
    fields = dict(CONFIGURATIONS[kind])
    configuration = configuration_of(fields.pop("patch"), 4, **fields)
    name = "augmentation_3d" if kind == "3d" else "augmentation_2d"
    # No interpolation and no gamma: what is left can be said in a line.
    silent = {"rotation_probability": 0.0, "scale_probability": 0.0, "elastic_probability": 0.0}
    changed = getattr(PAPER, name).model_copy(update={**silent, "gamma_probability": 0.5, "intensity": intensity})
    labels = Labels(classes=(Label(name="a", value=1),))
    recipe = PAPER.model_copy(update={name: changed})
    return PatchSampler(
        store, ["a"], configuration, recipe, labels=labels, channels=2, seed=0, masked_channels=masked_channels
    )


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_the_sampler_changes_intensities_before_it_mirrors_and_clears_at_last(store, kind):
    drawn = sampler(store, kind, ALWAYS, (1,))
    samples = drawn.batch(TRAINING, 0, 0)
    image, label = drawn.finish(samples, torch.device("cpu"))
    squeezed = [(one.image[:, 0], one.label[:, 0]) if kind == "2d" else (one.image, one.label) for one in samples]
    expected, layers = (torch.stack(parts).clone() for parts in zip(*squeezed, strict=True))
    still = {"slices": 0, "slices along x": 2}.get(kind)
    for names in (EVERYTHING, ["mirroring"], ["gamma"]):
        part = [{name: one.drawn[name] for name in names if name in one.drawn} for one in samples]
        expected, layers = augmented(expected, part, layers, through_plane_axis=still)
    assert torch.equal(label, layers[:, 0])
    assert (label == OUTSIDE).any()
    expected[:, 1][label == OUTSIDE] = 0
    assert image.numpy() == pytest.approx(expected.numpy(), abs=1e-4)
    assert (image[:, 0][label == OUTSIDE] != 0).any()


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_a_batch_follows_from_its_counters(store, kind):
    first, second = sampler(store, kind, IntensitySet()), sampler(store, kind, IntensitySet())
    for step in (3, 1):
        torch.manual_seed(step)
        one = first.finish(first.batch(TRAINING, 2, step), torch.device("cpu"))
        torch.manual_seed(step + 1)
        other = second.finish(second.batch(TRAINING, 2, step), torch.device("cpu"))
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_masked_channels_mean_nothing_without_the_set_or_in_validation(store, kind):
    cpu = torch.device("cpu")
    for stream, intensity in ((TRAINING, None), (VALIDATION, ALWAYS)):
        plain, masked = (sampler(store, kind, *more) for more in ((None,), (intensity, (0, 1))))
        one, other = (drawn.finish(drawn.batch(stream, 0, 0), cpu)[0] for drawn in (plain, masked))
        assert torch.equal(one, other)

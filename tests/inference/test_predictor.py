"""Sliding windows in closed form: a network that returns its input must reproduce it."""

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from voxfit.imaging.geometry import Box
from voxfit.inference.arrays import Arrays
from voxfit.inference.backends import between
from voxfit.inference.postprocessing import keep_largest_components
from voxfit.inference.predictor import NetworkInput, Predictor
from voxfit.inference.torch_networks import TorchArrays, TorchNetwork

PATCH = (8, 12, 10)
SHAPES = [(8, 12, 10), (3, 5, 4), (1, 1, 1), (16, 24, 20), (17, 13, 29), (30, 12, 9)]


def identity(batch):
    """Logits (0, x): the foreground probability is sigmoid(x)."""
    return torch.cat([torch.zeros_like(batch), batch], dim=1)


@pytest.fixture(scope="module", params=["numpy", "torch"])
def predictor_of(request):
    """Makes a predictor of modules, whose arrays are those of one library or the other."""

    def make(modules, *arguments, activation="softmax", **options):
        networks = [TorchNetwork(module, activation) for module in modules]
        if request.param == "torch":
            return Predictor(networks, *arguments, arrays=TorchArrays(), **options)
        return Predictor(
            [between(network, TorchArrays(), Arrays()) for network in networks],
            *arguments,
            arrays=Arrays(),
            **options,
        )

    return make


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize("folds", [1, 3])
def test_the_input_comes_back(predictor_of, shape, mirror, folds):
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    predictor = predictor_of(
        [identity] * folds, PATCH, slice_axis=None, outputs=2, mirror_axes=(0, 1, 2) if mirror else ()
    )
    probabilities = predictor.predict(image)
    assert probabilities[1] == pytest.approx(1 / (1 + np.exp(-image[0])), abs=1e-5)
    assert probabilities.sum(axis=0) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["centred", "shifted"])
def test_logits_and_regions_come_back_too(predictor_of, shape, kind):
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)

    def network(batch):
        return torch.cat([batch, 2 * batch, -batch], dim=1)

    for activation, expected in ((None, lambda x: x), ("sigmoid", lambda x: 1 / (1 + np.exp(-x)))):
        predictor = predictor_of(
            [network], PATCH, slice_axis=None, outputs=3, activation=activation, mirror_axes=(2,), gaussian_center=kind
        )
        assert len(predictor.flips) == 2
        for output, factor in zip(predictor.predict(image), (1, 2, -1), strict=True):
            assert output == pytest.approx(expected(factor * image[0]), abs=1e-5)


@pytest.mark.parametrize("shape", [(7, 11, 9), (5, 12, 3), (1, 10, 10)])
def test_small_images_lie_in_their_tile_as_in_nnu_net(predictor_of, shape):
    """Where the padding does not halve, the odd voxel is behind the image (`pad_nd_image`): networks see the place."""

    def network(batch):
        ramps = torch.meshgrid(*(torch.arange(size, dtype=torch.float32) for size in PATCH), indexing="ij")
        return torch.stack(ramps).expand(len(batch), 3, *PATCH)

    predictor = predictor_of([network], PATCH, slice_axis=None, outputs=3, activation=None, mirror_axes=())
    found = predictor.predict(np.ones((1, *shape), np.float32))
    for axis, (size, edge) in enumerate(zip(shape, PATCH, strict=True)):
        places = np.moveaxis(found[axis], axis, -1)
        expected = (edge - size) // 2 + np.arange(size)
        np.testing.assert_allclose(places, np.broadcast_to(expected, places.shape), atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_come_back_along_every_axis(predictor_of, axis):
    image = np.random.default_rng(0).normal(size=(1, 7, 20, 15)).astype(np.float32)
    box = tuple(1 if other == axis else 12 for other in range(3))
    predictor = predictor_of([identity], box, slice_axis=axis, outputs=2)
    assert predictor.predict(image)[1] == pytest.approx(1 / (1 + np.exp(-image[0])), abs=1e-5)


@pytest.mark.parametrize("writable", [True, False])
@pytest.mark.parametrize("shape", [(17, 13, 29), PATCH])
def test_tiles_are_views_and_images_stay_as_they_are(predictor_of, shape, writable):
    """Images out of a store may only be read."""
    seen = []

    def network(batch):
        seen.append(batch)
        return identity(batch)

    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    image.flags.writeable = writable
    before = image.copy()
    assert np.shares_memory(NetworkInput(image).tile(Box((1, 0, 2), (8, 12, 10))), image)
    probabilities = predictor_of([network], PATCH, slice_axis=None, outputs=2, mirror_axes=()).predict(image)
    assert probabilities[1] == pytest.approx(1 / (1 + np.exp(-image[0])), abs=1e-5)
    assert np.array_equal(image, before)
    assert all(batch.shape[1:] == (1, *PATCH) for batch in seen)


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(1, 30)] * 3), st.integers(1, 40), st.data())
def test_slabs_of_any_region_are_those_of_the_whole(predictor_of, shape, per_batch, data):
    """However a region is cut, and however many tiles share a pass."""
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    predictor = predictor_of([identity], PATCH, slice_axis=None, outputs=2, mirror_axes=())
    whole = predictor.predict(image)
    predictor.per_batch = per_batch
    start = tuple(data.draw(st.integers(0, size - 1)) for size in shape)
    region = Box(start, tuple(data.draw(st.integers(low + 1, size)) for low, size in zip(start, shape, strict=True)))
    axis, planes = data.draw(st.integers(0, 2)), data.draw(st.integers(1, 12))
    source = predictor.source(image)
    slabs = [slab.copy() for slab in source.slabs(region, axis, planes)]
    assert max(slab.shape[axis + 1] for slab in slabs) <= planes
    found = np.concatenate(slabs, axis=axis + 1)
    np.testing.assert_allclose(found, whole[(slice(None), *region.to_slices())], atol=1e-6)
    assert source.slab_bytes(region, axis) >= max(slab.nbytes for slab in slabs)


def test_without_mirroring_comes_with_mirroring_at_no_extra_pass(predictor_of):
    passes = []

    def network(batch):
        passes.append(len(batch))
        return torch.cat([torch.zeros_like(batch), batch.roll(1, 2)], dim=1)  # knows a direction

    image = np.random.default_rng(0).normal(size=(1, *PATCH)).astype(np.float32)
    both = predictor_of([network, identity], PATCH, slice_axis=None, outputs=2, also_without_tta=True)
    found = both.predict(image)
    assert sum(passes) == 8
    for mirror, half in (((0, 1, 2), found[:2]), ((), found[2:])):
        alone = predictor_of([network, identity], PATCH, slice_axis=None, outputs=2, mirror_axes=mirror)
        np.testing.assert_allclose(half, alone.predict(image), atol=1e-6)
    assert np.abs(found[:2] - found[2:]).max() > 0.01


def test_folds_and_variants_are_averaged_as_probabilities(predictor_of):
    """A network that sees which way is up: its answer depends on the mirrored axis, and the mean is known."""

    def lopsided(batch):
        ramp = torch.arange(batch.shape[2], dtype=torch.float32)[:, None, None].expand(
            batch.shape[0], 1, *batch.shape[2:]
        )
        return torch.cat([torch.zeros_like(ramp), ramp - 3], dim=1)

    predictor = predictor_of([lopsided, identity], PATCH, slice_axis=None, outputs=2)
    probabilities = predictor.predict(np.zeros((1, *PATCH), np.float32))
    ramp = np.arange(8) - 3.0
    both = (1 / (1 + np.exp(-ramp)) + 1 / (1 + np.exp(-ramp[::-1]))) / 2
    assert probabilities[1, :, 0, 0] == pytest.approx((both + 0.5) / 2, abs=1e-5)
    assert len(predictor.flips) == 8
    assert len(predictor_of([identity], (1, 8, 8), slice_axis=0, outputs=2).flips) == 4


def test_only_the_largest_component_stays():
    rng = np.random.default_rng(0)
    label = (scipy.ndimage.gaussian_filter(rng.normal(size=(20, 20, 20)), 1.2) > 0.05).astype(np.uint8)
    label[rng.random(label.shape) < 0.1] = 2
    expected = label.copy()
    components, count = scipy.ndimage.label(label == 1, np.ones((3, 3, 3)))
    assert count > 1
    sizes = np.bincount(components.ravel())[1:]
    expected[(label == 1) & (components != sizes.argmax() + 1)] = 0
    assert np.array_equal(keep_largest_components(label.copy(), [1]), expected)
    assert np.array_equal(keep_largest_components(label.copy(), []), label)

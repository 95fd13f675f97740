"""Networks with nnU-Net's weights, and its sliding window: against golden files."""

import functools
import json

import numpy as np
import pytest
import torch

from golden.files import Golden, noise, read_json
from golden.inputs import GAUSSIANS, NETWORKS, PATCH, TILED, WINDOWS, Ramp, architecture, weight_like
from voxfit.inference.predictor import Predictor
from voxfit.inference.tiling import gaussian_profile, tile_starts
from voxfit.inference.torch_networks import TorchArrays, TorchNetwork
from voxfit.interop.nnunet_network import read_stages, translate_weights
from voxfit.networks.unet import UNet
from voxfit.planning.architecture import Topology

SUMS = 1e-5
"""Of the largest value, both in single precision where they add up."""


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_of_networks(name):
    golden = Golden("networks")
    kind, axes, levels, shape = NETWORKS[name]
    stages = read_stages({"architecture": architecture(kind, len(axes), **levels)}, axes)
    topology = Topology(in_channels=2, out_channels=3, **dict(stages))
    weights = {
        theirs: torch.from_numpy(weight_like(tuple(size), source))
        for theirs, size, source in json.loads(golden.expected("names").tobytes())[name]
    }
    network = UNet(topology).eval()
    network.load_state_dict(translate_weights(weights, topology, axes))
    image = noise((1, 2, *shape), 6)
    with torch.inference_mode():
        found = network.double()(torch.from_numpy(image).double()).numpy()
    expected = golden.expected(name, image)
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", WINDOWS)
def test_sliding_windows(name):
    """The network says where in its tile each voxel lay: where images are padded shows, and how tiles are weighed."""
    shape, mirrored = WINDOWS[name]
    image = noise((1, *shape), 7)
    predictor = Predictor(
        [TorchNetwork(Ramp(), None)],
        PATCH,
        slice_axis=None,
        outputs=2,
        arrays=TorchArrays(),
        mirror_axes=mirrored,
        gaussian_center="shifted",
    )
    expected = Golden("sliding").expected(name, image)
    np.testing.assert_allclose(predictor.predict(image), expected, rtol=0, atol=SUMS * np.abs(expected).max())


@pytest.mark.parametrize("patch", GAUSSIANS)
def test_weights_of_tiles(patch):
    expected = Golden("sliding").expected(f"weights {patch}") / 10
    found = functools.reduce(np.multiply.outer, [gaussian_profile(edge, "shifted") for edge in patch])
    np.testing.assert_allclose(found, expected, rtol=1.3e-7)


def test_starts_of_tiles():
    assert {f"{size} {edge}": tile_starts(size, edge) for size, edge in TILED} == read_json("tiles")

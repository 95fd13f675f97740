"""The network against counts and formulas of the paper."""

import math

import numpy as np
import pytest
import torch

from voxfit.networks.unet import build_network
from voxfit.planning.stages import Topology, paper_stages


def topology(num_pool, base_features=4, max_features=320, pooling="max", **changes):
    stages = dict(paper_stages(num_pool, base_features, max_features, pooling))
    return Topology(in_channels=1, out_channels=3, **(stages | changes))


@pytest.mark.parametrize("num_pool", [(3, 3), (1, 2, 2), (0, 2, 3), (2, 2, 2), (0, 0, 0)])
@pytest.mark.parametrize("pooling", ["max", "strided"])
def test_the_output_has_the_shape_of_the_input(num_pool, pooling):
    made = topology(num_pool, pooling=pooling)
    patch = tuple(2 * size for size in made.divisor)
    network = build_network(made, 0)
    assert network(torch.zeros(2, 1, *patch)).shape == (2, 3, *patch)


def test_the_coarse_axis_waits_for_the_fine_ones():
    made = topology((2, 5, 5))
    assert list(made.strides[1:]) == [(1, 2, 2)] * 3 + [(2, 2, 2)] * 2


def test_features_double_up_to_the_cap():
    made = topology((5, 5, 5), base_features=30)
    assert made.features == (30, 60, 120, 240, 320, 320)
    assert topology((6, 6), base_features=30, max_features=None).features[6] == 1920


def test_parameters_are_those_of_plain_blocks():
    """Two 3x3x3 blocks (with affine norm) on every level of both sides, transposed convolutions, one 1x1x1 head."""
    network = build_network(topology((2, 2, 2)), 0)
    widths = [4, 8, 16]

    def block(inputs, outputs):
        return 27 * inputs * outputs + 2 * outputs

    expected = sum(block(a, b) + block(b, b) for a, b in zip([1, 4, 8], widths, strict=True))
    expected += sum(
        8 * widths[i + 1] * widths[i] + block(2 * widths[i], widths[i]) + block(widths[i], widths[i]) for i in range(2)
    )
    expected += widths[0] * 3 + 3
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


def test_initial_weights_are_he_normal_and_seeded():
    network, again, other = (build_network(topology((2, 2, 2), base_features=16), seed) for seed in (1, 1, 2))
    weight = network.encoder[1][1][0].weight.detach().numpy()
    expected = math.sqrt(2 / (1 + 0.01**2) / (27 * weight.shape[1]))
    assert weight.std() == pytest.approx(expected, rel=0.03)
    assert abs(weight.mean()) < 4 * expected / math.sqrt(weight.size)
    for a, b, c in zip(network.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.ndim < 2 or not torch.equal(a, c)


def test_instance_norm_makes_the_scale_of_the_input_irrelevant():
    network = build_network(topology((1, 1, 1)), 0).eval()
    image = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        first, second = network(image), network(1000 * image)
    assert np.allclose(first, second, atol=1e-3)

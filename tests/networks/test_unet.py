"""The network against counts and formulas of the paper."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from voxfit.networks.unet import ResidualBlock, build_network
from voxfit.planning.architecture import Topology, paper_stages


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


def residual(**changes):
    """Levels of each kind: with and without pooling, with and without more features."""
    return Topology(
        in_channels=2,
        out_channels=3,
        features=(4, 4, 8, 8),
        strides=((1, 1, 1), (1, 2, 2), (2, 2, 2), (1, 1, 1)),
        kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 1, 5)),
        encoder_blocks=(1, 2, 1, 2),
        decoder_blocks=(1, 2, 1),
        block="residual",
        downsampling="strided",
        bias=True,
        **changes,
    )


@pytest.mark.parametrize("batch", [1, 2])
def test_a_residual_network_keeps_the_shape(batch):
    network = build_network(residual(), 0)
    assert network(torch.zeros(batch, 2, 4, 8, 12)).shape == (batch, 3, 4, 8, 12)


def test_parameters_are_those_of_residual_blocks():
    """A stem, blocks of two convolutions, a projection without bias only where the number of features changes."""

    def unit(inputs, outputs, kernel, bias=True):
        return inputs * outputs * math.prod(kernel) + (3 if bias else 2) * outputs

    made = residual()
    kernels, widths = made.kernels, made.features
    expected = unit(2, 4, kernels[0])
    for level, inputs in enumerate((4, 4, 4, 8)):
        expected += unit(inputs, widths[level], kernels[level])
        expected += (2 * made.encoder_blocks[level] - 1) * unit(widths[level], widths[level], kernels[level])
    expected += unit(4, 8, (1, 1, 1), bias=False)
    for level in range(3):
        expected += math.prod(made.strides[level + 1]) * widths[level + 1] * widths[level] + widths[level]
        expected += unit(2 * widths[level], widths[level], kernels[level])
        expected += (made.decoder_blocks[level] - 1) * unit(widths[level], widths[level], kernels[level])
    expected += 4 * 3 + 3
    assert sum(parameter.numel() for parameter in build_network(made, 0).parameters()) == expected


@pytest.mark.parametrize(("inputs", "stride"), [(4, (1, 1, 1)), (8, (1, 1, 1)), (4, (1, 2, 2)), (8, (2, 1, 2))])
def test_a_residual_block_is_its_formula(inputs, stride):
    """The sum of two convolutions and of the averaged, projected image, activated once more."""
    torch.manual_seed(0)
    block = ResidualBlock(residual(), inputs, 4, (3, 1, 5), stride).double()
    for weight in block.parameters():
        torch.nn.init.normal_(weight)
    image = torch.randn(2, inputs, 4, 6, 8, dtype=torch.float64)

    def unit(layers, values, stride=1):
        convolution, norm = layers[0], layers[1]
        padding = [size // 2 for size in convolution.weight.shape[2:]]
        values = functional.conv3d(values, convolution.weight, convolution.bias, stride, padding)
        mean, variance = values.mean((2, 3, 4), keepdim=True), values.var((2, 3, 4), keepdim=True, correction=0)
        values = (values - mean) / (variance + 1e-5).sqrt()
        return values * norm.weight[:, None, None, None] + norm.bias[:, None, None, None]

    def active(values):
        return torch.where(values > 0, values, 0.01 * values)

    with torch.inference_mode():
        path = unit(block.second, active(unit(block.first, image, stride)))
        short = functional.avg_pool3d(image, stride) if max(stride) > 1 else image
        short = unit(block.projection, short) if inputs != 4 else short
        np.testing.assert_allclose(block(image.clone()), active(path + short), atol=1e-10)


def test_the_image_survives_the_activations_in_place():
    """A block that changes nothing about the shape hands its own input to the sum."""
    block = ResidualBlock(residual(), 4, 4, (3, 3, 3), (1, 1, 1))
    image = torch.randn(1, 4, 4, 4, 4)
    before = image.clone()
    block(image)
    assert torch.equal(image, before)


@pytest.mark.parametrize("pools", [4, 5])
def test_coarse_outputs_come_finest_first_each_from_the_head_of_its_level(pools):
    """All levels are equally wide, so that a head would fit to any of them."""
    made = topology((pools,) * 2, max_features=4)
    network = build_network(made, 0, deep_supervision=True)
    heads = [network.head, *network.coarse_heads]
    assert len(heads) == pools - 1  # the coarsest level of the decoder has none
    with torch.no_grad():
        for number, head in enumerate(heads):
            head.weight.zero_()
            head.bias.fill_(float(number))
    edge = 2 ** (pools + 1)
    outputs = network(torch.randn(1, 1, edge, edge, generator=torch.Generator().manual_seed(0)))
    for level, output in enumerate(outputs):
        assert torch.equal(output, torch.full((1, 3, edge >> level, edge >> level), float(level)))


def test_residual_blocks_begin_as_their_skip_connections():
    """As in nnU-Net v2 (`init_last_bn_before_add_to_0`): only the skip, activated."""
    network = build_network(residual(), 3)
    blocks = [module for module in network.modules() if isinstance(module, ResidualBlock)]
    assert len(blocks) == 6
    generator = torch.Generator().manual_seed(0)
    for block in blocks:
        image = torch.randn(2, block.first[0].in_channels, 4, 8, 8, generator=generator)
        with torch.inference_mode():
            short = block.projection(block.pool(image))
            assert torch.equal(block(image.clone()), torch.where(short > 0, short, 0.01 * short))

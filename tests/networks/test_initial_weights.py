"""Where weights begin, by their distribution."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from voxfit.networks.unet import build_network
from voxfit.planning.architecture import Stages, Topology, paper_stages


def topology(stages):
    return Topology(in_channels=2, out_channels=3, **dict(stages))


PAPER = topology(paper_stages((2, 2, 2), 16, None))
RESIDUAL = topology(
    Stages(
        features=(16, 32),
        strides=((1, 1, 1), (2, 2, 2)),
        kernels=((3, 3, 3), (3, 3, 3)),
        encoder_blocks=(1, 2),
        decoder_blocks=(1,),
        block="residual",
        downsampling="strided",
        bias=True,
    )
)


def convolutions(network):
    kinds = nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d
    return {name: module for name, module in network.named_modules() if isinstance(module, kinds)}


@pytest.mark.parametrize("which", [PAPER, RESIDUAL], ids=["paper", "residual"])
def test_weights_are_normal_with_the_deviation_of_he_for_the_leaky_relu(which):
    """He et al. (2015): the variance is 2 / ((1 + slope^2) x the inputs of an output)."""
    for name, module in convolutions(build_network(which, seed=3)).items():
        weight = module.weight.detach().numpy()
        inputs = math.prod(weight.shape[1:])
        expected = math.sqrt(2 / (1 + 0.01**2) / inputs)
        values = weight.ravel() / expected
        assert abs(values.std() - 1) < 5 / math.sqrt(2 * len(values)), name
        if len(values) > 1000:
            assert scipy.stats.kstest(values, "norm").pvalue > 1e-4, name
            assert np.abs(values).max() > 2.5, name


def test_biases_begin_at_zero_and_a_seed_gives_the_same_network_each_time():
    first, again = (build_network(RESIDUAL, seed=3) for _ in range(2))
    biases = [module.bias for module in convolutions(first).values() if module.bias is not None]
    assert len(biases) > 5
    assert not any(bias.any() for bias in biases)
    states = first.state_dict(), again.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])

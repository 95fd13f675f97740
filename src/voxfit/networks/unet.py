"""The U-Net of the paper (method.md [N1]-[N4]): plain blocks, poolings, transposed convolutions, one output."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from voxfit.planning.plan import Topology

LEAKY_SLOPE = 1e-2


class ConvBlock(nn.Sequential):
    """Convolution of 3 on every axis, instance norm, leaky ReLU; the bias is the norm's."""

    def __init__(self, dimension: int, inputs: int, outputs: int, stride: tuple[int, ...] | None = None) -> None:
        convolution = nn.Conv2d if dimension == 2 else nn.Conv3d
        norm = nn.InstanceNorm2d if dimension == 2 else nn.InstanceNorm3d
        super().__init__(
            convolution(inputs, outputs, 3, stride=_fixed(stride or (1,) * dimension), padding=1, bias=False),
            norm(outputs, eps=1e-5, affine=True),
            nn.LeakyReLU(LEAKY_SLOPE, inplace=True),
        )


class UNet(nn.Module):
    """Encoder and decoder with two blocks a level, joined by concatenation.

    Input (batch, channel, *patch) with patch edges that are multiples of `Topology.divisor`; output
    (batch, class, *patch) of logits.
    """

    def __init__(self, topology: Topology) -> None:
        super().__init__()
        dimension = len(topology.num_pool)
        features = [topology.features(level) for level in range(topology.levels + 1)]
        transposed = nn.ConvTranspose2d if dimension == 2 else nn.ConvTranspose3d
        pool = nn.MaxPool2d if dimension == 2 else nn.MaxPool3d
        self.encoder = nn.ModuleList()
        self.pools = nn.ModuleList()
        self.ups = nn.ModuleList()
        self.decoder = nn.ModuleList()
        inputs = topology.in_channels
        for level, width in enumerate(features):
            strided = topology.stride(level) if level and topology.pooling == "strided" else None
            self.encoder.append(
                nn.Sequential(ConvBlock(dimension, inputs, width, strided), ConvBlock(dimension, width, width))
            )
            inputs = width
            if level:
                stride = topology.stride(level)
                pooled = topology.pooling == "max"
                self.pools.append(pool(stride, stride) if pooled else nn.Identity())
                self.ups.append(transposed(width, features[level - 1], _fixed(stride), _fixed(stride), bias=False))
                above = features[level - 1]
                self.decoder.append(
                    nn.Sequential(ConvBlock(dimension, 2 * above, above), ConvBlock(dimension, above, above))
                )
        self.head = (nn.Conv2d if dimension == 2 else nn.Conv3d)(features[0], topology.out_channels, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits of an image."""
        skips: list[torch.Tensor] = []
        state = image
        for level, blocks in enumerate(self.encoder):
            state = blocks(self.pools[level - 1](state) if level else state)
            skips.append(state)
        for level in range(len(self.ups) - 1, -1, -1):
            state = self.decoder[level](torch.cat([self.ups[level](state), skips[level]], dim=1))
        return cast(torch.Tensor, self.head(state))


def _fixed(stride: tuple[int, ...]) -> Any:
    """Torch types a stride by its dimension; ours is known only at run time."""
    return stride


def build_network(topology: Topology, seed: int | None = None) -> UNet:
    """Make the network of a topology, He-initialised for the leaky ReLU (method.md [N2]).

    Args:
        topology: all its numbers.
        seed: of the initial weights; None where weights are loaded next.
    """
    network = UNet(topology)
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
                nn.init.kaiming_normal_(module.weight, LEAKY_SLOPE, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    return network

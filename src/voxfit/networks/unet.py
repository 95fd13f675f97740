"""The U-Net: the paper's (method.md [N1]-[N4]), and nnU-Net v2's plain and residual ones, from one description."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import nn

from voxfit.core.extensions import extension
from voxfit.planning.architecture import LEAKY_SLOPE, NORM_EPSILON, UNET, Topology

Axes = tuple[int, ...]
"""A number for each spatial axis."""

_CONVOLUTION: dict[int, Callable[..., nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, Callable[..., nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NORM: dict[int, Callable[..., nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_POOL: dict[int, Callable[..., nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_AVERAGE: dict[int, Callable[..., nn.Module]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}


class ConvBlock(nn.Sequential):
    """Convolution, instance norm, leaky ReLU (left out where a skip connection is added before it).

    Args:
        topology: dimension and bias.
        inputs, outputs: channels.
        kernel, stride: of each axis.
        active: with the activation.
    """

    def __init__(
        self, topology: Topology, inputs: int, outputs: int, kernel: Axes, stride: Axes, *, active: bool = True
    ) -> None:
        layers = [
            _CONVOLUTION[topology.dimension](
                inputs,
                outputs,
                kernel,
                stride=stride,
                padding=(tuple(size // 2 for size in kernel)),
                bias=topology.bias,
            ),
            _NORM[topology.dimension](outputs, eps=NORM_EPSILON, affine=True),
        ]
        super().__init__(*layers, *([nn.LeakyReLU(LEAKY_SLOPE, inplace=True)] if active else []))


class ResidualBlock(nn.Module):
    """Two convolutions and a skip connection, which is averaged and projected where the shape changes.

    Source: nnU-Net v2's residual encoder (ResNet-D basic block).
    """

    def __init__(self, topology: Topology, inputs: int, outputs: int, kernel: Axes, stride: Axes) -> None:
        super().__init__()
        ones = (1,) * topology.dimension
        self.first = ConvBlock(topology, inputs, outputs, kernel, stride)
        self.second = ConvBlock(topology, outputs, outputs, kernel, ones, active=False)
        self.pool = nn.Identity() if stride == ones else _AVERAGE[topology.dimension](stride, stride)
        self.projection: nn.Module = nn.Identity()
        if inputs != outputs:
            self.projection = nn.Sequential(
                _CONVOLUTION[topology.dimension](inputs, outputs, 1, bias=False),
                _NORM[topology.dimension](outputs, eps=NORM_EPSILON, affine=True),
            )
        self.activation = nn.LeakyReLU(LEAKY_SLOPE, inplace=True)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Features of half, or the same, resolution."""
        return cast(torch.Tensor, self.activation(self.second(self.first(image)) + self.projection(self.pool(image))))


class UNet(nn.Module):
    """Encoder and decoder, joined by concatenation.

    Input (batch, channel, *patch) with patch edges that are multiples of `Topology.divisor`; output
    (batch, output, *patch) of logits. With `deep_supervision`, while training, a list of these for the decoder's
    levels, finest first; the coarsest decoder level has no output unless it is the only one (nnU-Net v2).
    """

    def __init__(self, topology: Topology, *, deep_supervision: bool = False) -> None:
        super().__init__()
        dimension, features = topology.dimension, topology.features
        residual = topology.block == "residual"
        ones = (1,) * dimension
        self.stem = (
            ConvBlock(topology, topology.in_channels, features[0], topology.kernels[0], ones) if residual else None
        )
        self.encoder = nn.ModuleList()
        self.pools = nn.ModuleList()
        self.ups = nn.ModuleList()
        self.decoder = nn.ModuleList()
        inputs = features[0] if residual else topology.in_channels
        for level, (width, stride) in enumerate(zip(features, topology.strides, strict=True)):
            pooled = level > 0 and topology.downsampling == "max"
            self.pools.append(_POOL[dimension](stride, stride) if pooled else nn.Identity())
            self.encoder.append(_encoder(topology, level, inputs, ones if pooled else stride))
            inputs = width
            if level:
                above = features[level - 1]
                self.ups.append(_TRANSPOSED[dimension](width, above, stride, stride, bias=topology.bias))
                self.decoder.append(_decoder(topology, level - 1))
        self.head = _CONVOLUTION[dimension](features[0], topology.out_channels, 1)
        supervised = range(1, len(self.decoder) - 1) if deep_supervision else ()
        self.coarse_heads = nn.ModuleList(
            _CONVOLUTION[dimension](features[level], topology.out_channels, 1) for level in supervised
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Logits of an image."""
        skips: list[torch.Tensor] = []
        state = image if self.stem is None else self.stem(image)
        for pool, blocks in zip(self.pools, self.encoder, strict=True):
            state = blocks(pool(state))
            skips.append(state)
        coarse: list[torch.Tensor] = []
        for level in range(len(self.ups) - 1, -1, -1):
            state = self.decoder[level](torch.cat([self.ups[level](state), skips[level]], dim=1))
            if self.training and 1 <= level <= len(self.coarse_heads):
                coarse.insert(0, self.coarse_heads[level - 1](state))
        logits = cast(torch.Tensor, self.head(state))
        return [logits, *coarse] if coarse else logits


def _encoder(topology: Topology, level: int, inputs: int, stride: Axes) -> nn.Sequential:
    """The encoder of one level; its first block is strided."""
    kind = ResidualBlock if topology.block == "residual" else ConvBlock
    return _stack(kind, topology, level, topology.encoder_blocks[level], inputs, stride)


def _decoder(topology: Topology, level: int) -> nn.Sequential:
    """The decoder of one level, behind the concatenation with the encoder's features."""
    ones = (1,) * topology.dimension
    return _stack(ConvBlock, topology, level, topology.decoder_blocks[level], 2 * topology.features[level], ones)


def _stack(
    kind: type[ConvBlock | ResidualBlock], topology: Topology, level: int, blocks: int, inputs: int, stride: Axes
) -> nn.Sequential:
    """Blocks one after another, of which the first has `inputs` channels and the stride."""
    kernel, width, ones = topology.kernels[level], topology.features[level], (1,) * topology.dimension
    first = kind(topology, inputs, width, kernel, stride)
    return nn.Sequential(first, *(kind(topology, width, width, kernel, ones) for _ in range(blocks - 1)))


def build_network(topology: Topology, seed: int | None = None, *, deep_supervision: bool = False) -> nn.Module:
    """Make the network of a topology, He-initialised for the leaky ReLU (method.md [N2]).

    Residual blocks begin as their skip connections: the norm before the sum starts at zero (nnU-Net v2).
    A network of another package is called as `UNet` is, and begins as it wants to, by PyTorch's random numbers.

    Args:
        topology: all its numbers.
        seed: of the initial weights; None where weights are loaded next.
        deep_supervision: with outputs of coarse levels, for training.

    Raises:
        UsageError: no installed package offers the network that it names.
    """
    if topology.network != UNET:
        with torch.random.fork_rng([]):
            torch.manual_seed(seed or 0)
            return cast(nn.Module, extension("network", topology.network)(topology, deep_supervision=deep_supervision))
    network = UNet(topology, deep_supervision=deep_supervision)
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
                nn.init.kaiming_normal_(module.weight, LEAKY_SLOPE, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            if isinstance(module, ResidualBlock):
                nn.init.zeros_(cast(torch.Tensor, module.second[1].weight))
    return network


def inference_weights(network: nn.Module) -> dict[str, torch.Tensor]:
    """The weights that prediction needs, on the CPU: without those of `coarse_heads`, which only training has."""
    return {
        key: tensor.detach().cpu().contiguous()
        for key, tensor in network.state_dict().items()
        if not key.startswith("coarse_heads.")
    }

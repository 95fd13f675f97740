"""What networks depend on: levels, widths, kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator
from typing_extensions import Self

from voxfit.core.records import Record

LEAKY_SLOPE = 1e-2
"""Of the leaky ReLU below zero (method.md [N2])."""

NORM_EPSILON = 1e-5
"""Added to the variance by instance norms."""

UNET = "unet"
"""The network of the paper and of nnU-Net v2, by its stages."""

MOST_FEATURES = 65536
"""Feature maps at full resolution; no network comes near it."""

Blocks = Annotated[PositiveInt, Field(le=256)]


class Stages(Record):
    """The levels of a network, 0 at full resolution.

    Attributes:
        features: feature maps of each level.
        strides: by which each axis is divided when a level is entered; ones for level 0.
        kernels: size of the convolutions of each level, for each axis.
        encoder_blocks: blocks of each level on the way down.
        decoder_blocks: convolutions of each level but the deepest on the way up.
        block: "plain" is convolution, norm, activation; "residual" is two of them and a skip connection.
        downsampling: how a level is entered: by max pooling, or by the stride of its first convolution.
        bias: whether convolutions have a bias beside the norm's.
    """

    features: Annotated[tuple[Annotated[PositiveInt, Field(le=1 << 28)], ...], Field(min_length=1, max_length=16)]
    strides: tuple[tuple[Annotated[int, Field(ge=1, le=8)], ...], ...]
    kernels: tuple[tuple[Annotated[int, Field(ge=1, le=7)], ...], ...]
    encoder_blocks: tuple[Blocks, ...]
    decoder_blocks: tuple[Blocks, ...]
    block: Literal["plain", "residual"] = "plain"
    downsampling: Literal["max", "strided"] = "max"
    bias: bool = False

    @model_validator(mode="after")
    def _consistent_levels(self) -> Self:
        levels = len(self.features)
        if not levels == len(self.strides) == len(self.kernels) == len(self.encoder_blocks):
            raise ValueError("features, strides, kernels and encoder_blocks need one entry for each level")
        if len(self.decoder_blocks) != levels - 1:
            raise ValueError("decoder_blocks needs one entry for each level but the deepest")
        if len({len(axes) for axes in (*self.strides, *self.kernels)}) != 1 or len(self.strides[0]) not in (2, 3):
            raise ValueError("strides and kernels need the same 2 or 3 axes on every level")
        if any(size % 2 == 0 for axes in self.kernels for size in axes):
            raise ValueError("kernels must be odd")
        if set(self.strides[0]) != {1}:
            raise ValueError("the strides of level 0 must be 1")
        return self

    @property
    def dimension(self) -> int:
        """2 or 3."""
        return len(self.strides[0])

    @property
    def divisor(self) -> tuple[int, ...]:
        """Input sizes must be multiples of this."""
        return tuple(math.prod(axis) for axis in zip(*self.strides, strict=True))


class Topology(Stages):
    """What the network depends on: with the weights, all that is needed to run it.

    Attributes:
        in_channels: image channels, and the one-hot channels of a previous stage.
        out_channels: logits of each voxel.
        network: "unet", or what an installed package builds from the same numbers.
    """

    in_channels: PositiveInt
    out_channels: PositiveInt
    network: str = UNET


def paper_stages(
    num_pool: Sequence[int], base_features: int, max_features: int | None, pooling: Literal["max", "strided"] = "max"
) -> Stages:
    """The levels of the paper's networks (method.md [N2]-[N4]).

    Args:
        num_pool: poolings of each axis. An axis with fewer than the others is pooled on the deepest levels [N4].
        base_features: feature maps at full resolution, doubled at every level [N3].
        max_features: cap on feature maps; None for none.
        pooling: how a level is entered.
    """
    deepest = max(num_pool)
    levels = range(deepest + 1)
    return Stages(
        features=tuple(min(base_features << level, max_features or base_features << level) for level in levels),
        strides=tuple(tuple(2 if level > deepest - pools else 1 for pools in num_pool) for level in levels),
        kernels=tuple((3,) * len(num_pool) for _ in levels),
        encoder_blocks=(2,) * (deepest + 1),
        decoder_blocks=(2,) * deepest,
        downsampling=pooling,
    )


def count_weights(topology: Topology) -> int:
    """The weights of the convolutions of a network."""
    return sum(_weights_of_levels(topology))


def multiplications(topology: Topology, patch_size: Sequence[int]) -> int:
    """Multiplications of one forward pass over one patch; a training step takes about three times as many."""
    total, voxels = 0, math.prod(patch_size)
    for weights, strides in zip(_weights_of_levels(topology), topology.strides, strict=True):
        voxels //= math.prod(strides)
        total += weights * voxels
    return total


def _weights_of_levels(topology: Topology) -> list[int]:
    """The weights that each level applies to each of its voxels."""
    result, inputs, residual = [], topology.in_channels, topology.block == "residual"
    for level, (width, kernel) in enumerate(zip(topology.features, topology.kernels, strict=True)):
        # A residual network has one more convolution, before its first block.
        convolutions = topology.encoder_blocks[level] * (2 if residual else 1) + (residual and level == 0)
        weights = math.prod(kernel) * width * (inputs + width * (convolutions - 1))
        if level:  # the transposed convolution to the level above
            weights += width * topology.features[level - 1] * math.prod(topology.strides[level])
        if level < len(topology.decoder_blocks):  # its first convolution gets the encoder's features, too
            weights += math.prod(kernel) * width * width * (topology.decoder_blocks[level] + 1)
        result.append(weights)
        inputs = width
    result[0] += topology.features[0] * topology.out_channels
    return result


def activation_bytes(topology: Topology, patch_size: Sequence[int]) -> int:
    """Memory that one forward pass over one patch takes, about: what the decoder will need, and the widest level."""
    voxels, levels = math.prod(patch_size), []
    for width, strides in zip(topology.features, topology.strides, strict=True):
        voxels //= math.prod(strides)
        levels.append(4 * width * voxels)
    # A convolution of the decoder holds its two inputs, both together, and its result.
    return sum(levels) + 4 * max(levels)

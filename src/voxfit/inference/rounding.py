"""Which tensors of a U-Net 8 bits hold, and the ranges of values that these stand for, observed on calibration tiles.

Rounded are the inputs of convolutions: behind each instance norm and activation, and behind each transposed
convolution, once for all that read them. The image and what the head reads stay in float32, as do instance norms and
the sums of residual blocks: they cost little, and their errors would be seen in the segmentation.

A mean shift by rounding needs no correction, unlike in networks with batch norm: the instance norm behind a
convolution subtracts it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from voxfit.inference.int8_json import LEVELS, Range
from voxfit.networks.unet import ConvBlock, ResidualBlock, UNet


def rounded_tensors(network: UNet) -> dict[str, nn.Module]:
    """The modules whose outputs 8 bits hold, by their names in the network."""
    residual = [block for block in network.modules() if isinstance(block, ResidualBlock)]
    kept = {block.second for block in residual} | {block.projection for block in residual}
    kept.add(list((network.decoder[0] if len(network.decoder) else network.encoder[0]).children())[-1])
    pools = {block.pool for block in residual if not isinstance(block.pool, nn.Identity)}
    wider = set(network.ups)
    return {
        name: module
        for name, module in network.named_modules()
        if module not in kept and (isinstance(module, ConvBlock | ResidualBlock) or module in pools or module in wider)
    }


@torch.inference_mode()
def observe_ranges(network: UNet, batches: Iterable[torch.Tensor]) -> dict[str, Range]:
    """The ranges of all rounded tensors: the mean over tiles of each tile's smallest and largest value.

    A mean, because the very largest value of all is an outlier, and the steps between 256 values grow with it.

    Args:
        network: in evaluation mode.
        batches: (batch, channel, *patch) calibration tiles.

    Returns:
        ranges by the names of `rounded_tensors`.
    """
    lows: dict[str, list[torch.Tensor]] = {}
    highs: dict[str, list[torch.Tensor]] = {}
    handles = [
        _observe(module, lows.setdefault(name, []), highs.setdefault(name, []))
        for name, module in rounded_tensors(network).items()
    ]
    try:
        for batch in batches:
            network(batch)
    finally:
        for handle in handles:
            handle.remove()
    ranges = {name: (float(torch.cat(lows[name]).mean()), float(torch.cat(highs[name]).mean())) for name in lows}
    # What is concatenated shares one range: integers of two scales could not be summed by one convolution.
    for level, blocks in enumerate(network.encoder):
        up, skip = f"ups.{level}", f"encoder.{level}.{len(list(blocks.children())) - 1}"
        if up in ranges:
            joined = (min(ranges[up][0], ranges[skip][0]), max(ranges[up][1], ranges[skip][1]))
            ranges[up] = ranges[skip] = joined
    for name in _before_transposed(network):
        if name in ranges:
            largest = max(map(abs, ranges[name]))
            ranges[name] = (-largest, largest * (LEVELS // 2 - 1) / (LEVELS // 2))
    return {name: _with_zero(*values) for name, values in ranges.items()}


def _before_transposed(network: UNet) -> list[str]:
    """The modules whose outputs transposed convolutions read: symmetric about zero, or OpenVINO computes in float32."""
    deepest = len(network.encoder) - 1
    encoder = f"encoder.{deepest}.{len(list(network.encoder[deepest].children())) - 1}"
    return [encoder] + [
        f"decoder.{level}.{len(list(network.decoder[level].children())) - 1}" for level in range(1, deepest)
    ]


def _with_zero(low: float, high: float) -> Range:
    """The range, moved by less than a step, so that one of its values is zero: convolutions pad with that."""
    low, high = min(low, 0.0), max(high, float(np.finfo(np.float32).tiny))
    step = (high - low) / (LEVELS - 1)
    below = round(-low / step)
    return -below * step, (LEVELS - 1 - below) * step


def _observe(module: nn.Module, lows: list[torch.Tensor], highs: list[torch.Tensor]) -> RemovableHandle:
    def note(_: nn.Module, __: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        lows.append(output.flatten(1).amin(dim=1))
        highs.append(output.flatten(1).amax(dim=1))

    return module.register_forward_hook(note)

"""Changes of intensity alone, as in nnU-Net v2 (nnUNetTrainer, batchgeneratorsv2), drawn and applied apart.

In this order: noise, blur, brightness, contrast, low resolution, gamma of the inverted image. They follow the geometric
half; mirroring and the gamma correction of `augmentation` follow them. Where nnU-Net chooses between a direct and a
Fourier convolution by stopwatch, blurring is direct here, so that equal parameters give equal images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch.nn import functional

from voxfit.planning.recipe import IntensitySet
from voxfit.preprocessing.case import OUTSIDE

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Noise:
    """Gaussian noise: its standard deviation, and the seed from which it is made on the CPU, whatever the device."""

    deviation: float
    seed: int


@dataclass(frozen=True)
class Intensity:
    """What is done to the intensities of one sample. Tuples have an item for each channel; None stands for nothing.

    Attributes:
        noise: added to all channels.
        blur: standard deviations along (z, y, x), voxels; a plane has the last two.
        brightness: factor on the intensities.
        contrast: factor on their distances from the mean.
        resolution: factor on the number of voxels along each axis.
        inverted_gamma: exponent.
    """

    noise: Noise | None = None
    blur: tuple[tuple[float, float, float] | None, ...] | None = None
    brightness: tuple[float, ...] | None = None
    contrast: tuple[float, ...] | None = None
    resolution: tuple[float | None, ...] | None = None
    inverted_gamma: tuple[float, ...] | None = None


def draw_intensity(rng: np.random.Generator, settings: IntensitySet, channels: int) -> Intensity:
    """Draw the parameters of one sample with `channels` image channels from its own `rng`."""

    def factors(probability: float, limits: tuple[float, float]) -> tuple[float, ...] | None:
        if rng.random() >= probability:
            return None
        return tuple(about_one(rng, limits) for _ in range(channels))

    noise, blur, resolution = None, None, None
    if rng.random() < settings.noise_probability:
        noise = Noise(float(rng.uniform(*settings.noise_deviation)), int(rng.integers(2**63)))
    if rng.random() < settings.blur_probability:
        chosen = rng.random(channels) < settings.blur_channel_probability
        sigmas = rng.uniform(*settings.blur_sigma, size=(channels, 3)).tolist()
        blur = tuple((z, y, x) if here else None for here, (z, y, x) in zip(chosen, sigmas, strict=True))
    brightness = factors(settings.brightness_probability, settings.brightness)
    contrast = factors(settings.contrast_probability, settings.contrast)
    if rng.random() < settings.resolution_probability:
        chosen = rng.random(channels) < settings.resolution_channel_probability
        scales = rng.uniform(*settings.resolution, size=channels).tolist()
        resolution = tuple(scale if here else None for here, scale in zip(chosen, scales, strict=True))
    inverted_gamma = factors(settings.inverted_gamma_probability, settings.inverted_gamma)
    return Intensity(noise, blur, brightness, contrast, resolution, inverted_gamma)


def about_one(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    """Below 1 and above 1 with equal chance, whatever the widths of the two parts."""
    low, high = limits
    if low < 1 and (high <= 1 or rng.random() < 0.5):
        return float(rng.uniform(low, min(high, 1.0)))
    return float(rng.uniform(max(low, 1.0), high))


def adjust_intensity(
    image: torch.Tensor, draws: Sequence[Intensity | None], still_axis: int | None = None
) -> torch.Tensor:
    """Apply drawn parameters to (batch, channel, *patch); in place.

    Args:
        image: float32, 2 or 3 axes behind the channels.
        draws: one for each sample; None leaves it as it is.
        still_axis: the axis of the patch whose resolution is kept; None for none.
    """
    for sample, drawn in zip(image, draws, strict=True):
        if drawn is not None:
            _adjust(sample, drawn, still_axis)
    return image


def clear_outside(
    image: torch.Tensor, label: torch.Tensor, draws: Sequence[Intensity | None], masked_channels: Sequence[int]
) -> torch.Tensor:
    """Set voxels beyond the nonzero mask to 0, whatever augmentation made of them; in place.

    Args:
        image: (batch, channel, *patch).
        label: (batch, *patch), `OUTSIDE` beyond the mask.
        draws: samples without one stay as they are.
        masked_channels: channels that are normalised inside the mask.
    """
    for index, drawn in enumerate(draws):
        if drawn is not None:
            for channel in masked_channels:
                image[index, channel].masked_fill_(label[index] == OUTSIDE, 0)
    return image


def add_noise(image: torch.Tensor, noise: Noise) -> torch.Tensor:
    """Add noise to (channel, *patch); in place."""
    source = torch.Generator().manual_seed(noise.seed)
    values = torch.randn(image.shape, generator=source).to(image.device, image.dtype)
    return image.add_(values, alpha=noise.deviation)


def blur(channel: torch.Tensor, sigmas: Sequence[float]) -> torch.Tensor:
    """Smooth one channel (*patch) by a Gaussian with a sigma (voxels) for each axis; in place.

    The Gaussian ends after about 3 sigma. Beyond the patch lies its mirror image, without a second edge voxel. Shifted
    images are added instead of convolved: convolutions may be rounded to TF32 on a GPU, and nnU-Net's fail where the
    patch is no longer than the Gaussian's reach.
    """
    for axis, sigma in enumerate(sigmas):
        size = channel.shape[axis]
        radius = math.floor(3 * sigma + 0.25)
        weights = [math.exp(-0.5 * (step / sigma) ** 2) for step in range(-radius, radius + 1)]
        period = max(2 * (size - 1), 1)
        position = torch.arange(-radius, size + radius, device=channel.device).abs() % period
        padded = channel.index_select(axis, torch.minimum(position, 2 * (size - 1) - position))
        channel.zero_()
        for step, weight in enumerate(weights):
            channel.add_(padded.narrow(axis, step, size), alpha=weight / sum(weights))
    return channel


def stretch_contrast(channel: torch.Tensor, factor: float) -> torch.Tensor:
    """Multiply the distances of one channel's values from their mean, and cut at the old range; in place."""
    mean, (low, high) = channel.mean(), channel.aminmax()
    return channel.sub_(mean).mul_(factor).add_(mean).clamp_(low, high)


def coarsen(channel: torch.Tensor, scale: float, still_axis: int | None = None) -> torch.Tensor:
    """Take the nearest voxels of a coarser grid and interpolate linearly between them; in place.

    Args:
        channel: one channel (*patch) of 2 or 3 axes.
        scale: on the number of voxels along each axis, of which at least 1 is left.
        still_axis: the axis that keeps its voxels.
    """
    shape = [size if axis == still_axis else max(round(size * scale), 1) for axis, size in enumerate(channel.shape)]
    coarse = functional.interpolate(channel[None, None], shape, mode="nearest-exact")
    linear = "bilinear" if channel.ndim == 2 else "trilinear"
    fine = functional.interpolate(coarse, channel.shape, mode=linear, align_corners=False)
    return channel.copy_(fine[0, 0])


def bend(channel: torch.Tensor, exponent: float, *, inverted: bool = False) -> torch.Tensor:
    """Gamma correction of one channel (or of its negative) between its extremes, mean and deviation kept; in place."""
    mean, deviation, (low, high) = channel.mean(), channel.std(), channel.aminmax()
    span = high - low + 1e-7
    if inverted:
        channel.neg_().add_(high)
    else:
        channel.sub_(low)
    channel.div_(span).pow_(exponent)
    factor = span * deviation / (span * channel.std() + 1e-8)
    if inverted:
        factor = -factor
    shift = mean - channel.mean() * factor
    return channel.mul_(factor).add_(shift)


def bend_inverted(image: torch.Tensor, exponents: Sequence[float]) -> torch.Tensor:
    """Gamma correction of the negative of (channel, *patch), with an exponent for each channel; in place."""
    for channel, exponent in zip(image, exponents, strict=True):
        bend(channel, exponent, inverted=True)
    return image


def _adjust(sample: torch.Tensor, drawn: Intensity, still_axis: int | None) -> None:
    """All changes of one sample (channel, *patch), one after another; in place."""
    if drawn.noise:
        add_noise(sample, drawn.noise)
    if drawn.blur:
        _each(sample, drawn.blur, lambda channel, sigmas: blur(channel, sigmas[-channel.ndim :]))
    if drawn.brightness:
        _each(sample, drawn.brightness, torch.Tensor.mul_)
    if drawn.contrast:
        _each(sample, drawn.contrast, stretch_contrast)
    if drawn.resolution:
        _each(sample, drawn.resolution, lambda channel, scale: coarsen(channel, scale, still_axis))
    if drawn.inverted_gamma:
        bend_inverted(sample, drawn.inverted_gamma)


def _each(
    sample: torch.Tensor, values: Sequence[_Value | None], change: Callable[[torch.Tensor, _Value], torch.Tensor]
) -> None:
    for channel, value in zip(sample, values, strict=True):
        if value is not None:
            change(channel, value)

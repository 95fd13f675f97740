"""Changes of intensity alone, as in nnU-Net v2 (nnUNetTrainer, batchgeneratorsv2), drawn and applied separately.

In this order: noise, blur, brightness, contrast, low resolution, gamma of the inverted image. They follow the geometric
half; mirroring and the gamma correction of `augmentation` follow them. Where nnU-Net chooses between a direct and a
Fourier convolution by stopwatch, blurring is direct here, so that equal parameters give equal images.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from voxfit.learning.row_operations import along_axes, change_rows, column, spread
from voxfit.planning.recipes import IntensitySet
from voxfit.preprocessing.case import OUTSIDE
from voxfit.preprocessing.resampling import axis_matrix

Drawn = TypeVar("Drawn")


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
    image: torch.Tensor, draws: Sequence[Intensity | None], through_plane_axis: int | None = None
) -> torch.Tensor:
    """Apply drawn parameters to (batch, channel, *patch); in place.

    Args:
        image: float32, 2 or 3 axes behind the channels.
        draws: one for each sample; None leaves it as it is.
        through_plane_axis: the axis of the patch whose resolution is kept; None for none.
    """
    rows = image.view(-1, *image.shape[2:])  # a channel each
    for sample, drawn in zip(image, draws, strict=True):
        if drawn is not None and drawn.noise:
            add_noise(sample, drawn.noise)

    def drawn_of(kind: Callable[[Intensity], tuple[Drawn | None, ...] | None]) -> list[tuple[int, Drawn]]:
        """What was drawn for each channel of each sample, by the number of its row."""
        values = [(kind(drawn) if drawn else None) or (None,) * image.shape[1] for drawn in draws]
        return [(row, value) for row, value in enumerate(itertools.chain(*values)) if value is not None]

    change_rows(rows, drawn_of(lambda drawn: drawn.blur), blur)
    change_rows(rows, drawn_of(lambda drawn: drawn.brightness), lambda some, factors: some.mul_(column(factors, some)))
    change_rows(rows, drawn_of(lambda drawn: drawn.contrast), stretch_contrast)
    change_rows(
        rows,
        drawn_of(lambda drawn: drawn.resolution),
        partial(simulate_low_resolution, through_plane_axis=through_plane_axis),
    )
    change_rows(rows, drawn_of(lambda drawn: drawn.inverted_gamma), partial(gamma_correct, inverted=True))
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


def blur(rows: torch.Tensor, sigmas: Sequence[Sequence[float]]) -> torch.Tensor:
    """Smooth each row of (row, *patch) by a Gaussian with a sigma (voxels) for each of (z, y, x), or (y, x).

    The Gaussian ends after about 3 sigma. Beyond the patch lies its mirror image, without a second edge voxel.
    """
    sizes = rows.shape[1:]
    return along_axes(
        rows,
        [np.stack([_smoothing(size, sigma[axis - len(sizes)]) for sigma in sigmas]) for axis, size in enumerate(sizes)],
    )


def stretch_contrast(rows: torch.Tensor, factors: Sequence[float]) -> torch.Tensor:
    """Multiply the distances of the values of (row, *patch) from their row's mean, and cut at its range; in place."""
    mean, low, high = spread(rows)
    return rows.sub_(mean).mul_(column(factors, rows)).add_(mean).clamp_(low, high)


def simulate_low_resolution(
    rows: torch.Tensor, scales: Sequence[float], through_plane_axis: int | None = None
) -> torch.Tensor:
    """Take the nearest voxels of coarser grids and interpolate linearly between them.

    Args:
        rows: (row, *patch).
        scales: for each row, on the number of voxels along each axis, of which at least 1 is left.
        through_plane_axis: the axis of the patch that keeps its voxels.
    """
    matrices = []
    for axis, size in enumerate(rows.shape[1:]):
        coarse = [size if axis == through_plane_axis else max(round(size * scale), 1) for scale in scales]
        matrices.append(np.stack([_coarsening(size, voxels) for voxels in coarse]))
    return along_axes(rows, matrices)


def gamma_correct(rows: torch.Tensor, exponents: Sequence[float], *, inverted: bool = False) -> torch.Tensor:
    """Gamma correction of each row of (row, *patch), or of its negative, between its extremes; in place.

    Mean and deviation of a row are kept.
    """
    axes = tuple(range(1, rows.ndim))
    mean, low, high = spread(rows)
    deviation, span = rows.std(axes, keepdim=True), high - low + 1e-7
    if inverted:
        rows.neg_().add_(high)
    else:
        rows.sub_(low)
    rows.div_(span).pow_(column(exponents, rows))
    factor = span * deviation / (span * rows.std(axes, keepdim=True) + 1e-8)
    if inverted:
        factor = -factor
    shift = mean - rows.mean(axes, keepdim=True) * factor
    return rows.mul_(factor).add_(shift)


def _smoothing(size: int, sigma: float) -> NDArray[np.float32]:
    """What `blur` does along an axis, as a matrix."""
    radius = math.floor(3 * sigma + 0.25)
    steps = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    period = max(2 * (size - 1), 1)
    position = np.abs(np.arange(size)[:, None] + steps) % period
    matrix = np.zeros((size, size))
    np.add.at(
        matrix, (np.arange(size)[:, None], np.minimum(position, 2 * (size - 1) - position)), weights / weights.sum()
    )
    return matrix.astype(np.float32)


@lru_cache(maxsize=512)
def _coarsening(size: int, coarse: int) -> NDArray[np.float32]:
    """What `simulate_low_resolution` does along an axis, as a matrix; rounded as PyTorch's "nearest-exact" rounds."""
    nearest = np.floor((np.arange(coarse) + np.float32(0.5)) * np.float32(size / coarse)).astype(int)
    matrix = np.zeros((size, size), np.float32)
    np.add.at(matrix.T, np.minimum(nearest, size - 1), axis_matrix(coarse, size, 1).T)
    return matrix

"""Changes of intensity alone with given parameters, as in nnU-Net v2 (batchgeneratorsv2).

`augmentation` draws the parameters and has the order. Where nnU-Net chooses between a direct and a
Fourier convolution by stopwatch, blurring is direct here, so that equal parameters give equal images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from voxfit.learning.row_operations import along_axes, column, row_statistics
from voxfit.preprocessing.resampling import axis_matrix


@dataclass(frozen=True)
class Noise:
    """Gaussian noise: its standard deviation, and the seed from which it is made on the CPU, whatever the device."""

    deviation: float
    seed: int


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


def scale_intensity(rows: torch.Tensor, factors: Sequence[float]) -> torch.Tensor:
    """Multiply each row of (row, *patch) by a factor; in place."""
    return rows.mul_(column(factors, rows))


def stretch_contrast(rows: torch.Tensor, factors: Sequence[float]) -> torch.Tensor:
    """Multiply the distances of the values of (row, *patch) from their row's mean, and cut at its range; in place."""
    mean, low, high = row_statistics(rows)
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
    mean, low, high = row_statistics(rows)
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

"""Augmentation in two halves: drawing parameters, and applying them in batches (method.md [T5]).

`warping` applies the geometric half.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from voxfit.imaging.geometry import Box
from voxfit.learning.intensity import Intensity, about_one, draw_intensity, gamma_correct
from voxfit.learning.row_operations import change_rows
from voxfit.planning.recipes import AugmentationSet

_ELASTIC_REACH = 5.0
"""Displacements beyond this many standard deviations are clipped, so that the needed box is known beforehand."""


@dataclass(frozen=True)
class Elastic:
    """A smooth random displacement: uniform noise in [-1, 1], smoothed by a Gaussian, multiplied.

    Attributes:
        amplitude: the factor, voxels.
        sigma: of the Gaussian, voxels.
        noise: (axis, *patch) float32.
    """

    amplitude: float
    sigma: float
    noise: NDArray[np.float32]

    @property
    def reach(self) -> int:
        """Displacements are at most this long along an axis, voxels."""
        axes = len(self.noise)
        deviation = self.amplitude / math.sqrt(3) / math.pow(2 * math.sqrt(math.pi) * self.sigma, axes / 2)
        return math.ceil(_ELASTIC_REACH * deviation)


@dataclass(frozen=True)
class Augmentation:
    """What is done to one sample. Axes are those of the plane or volume that is transformed.

    Attributes:
        matrix: takes offsets from the patch's centre to offsets in the image; None for the identity.
        elastic: added displacement; None for none.
        mirrored: axes to flip.
        gamma: exponent for each channel; None for none.
        intensity: further changes of intensity; None for none.
    """

    matrix: NDArray[np.float64] | None = None
    elastic: Elastic | None = None
    mirrored: tuple[bool, ...] = ()
    gamma: tuple[float, ...] | None = None
    intensity: Intensity | None = None

    @property
    def moves(self) -> bool:
        """Whether voxels must be interpolated."""
        return self.matrix is not None or self.elastic is not None

    def source_box(self, patch: Box) -> Box:
        """The voxels that are needed to fill a patch, interpolation included."""
        if not self.moves:
            return patch
        size = np.asarray(patch.shape)
        centre = np.asarray(patch.start) + (size - 1) / 2
        matrix = np.eye(len(size)) if self.matrix is None else self.matrix
        reach = np.abs(matrix) @ ((size - 1) / 2) + (self.elastic.reach if self.elastic else 0)
        low = np.floor(centre - reach - 1e-6).astype(int)
        high = np.ceil(centre + reach + 1e-6).astype(int) + 1
        return Box(tuple(low.tolist()), tuple(high.tolist()))


def draw(
    rng: np.random.Generator, settings: AugmentationSet, patch: Sequence[int], mirror_axes: int, channels: int
) -> Augmentation:
    """Draw the parameters of one sample.

    Args:
        rng: of this sample alone.
        settings: ranges and probabilities.
        patch: 2 or 3 edges of what is transformed.
        mirror_axes: how many axes may be flipped.
        channels: image channels.
    """
    stretched = max(patch) > 1.5 * min(patch)
    matrix = None
    if rng.random() < settings.rotation_probability:
        largest = settings.stretched_rotation_degrees if stretched else settings.rotation_degrees
        matrix = rotation(np.deg2rad(rng.uniform(-largest, largest, 3 if len(patch) == 3 else 1)))
    if rng.random() < settings.scale_probability:
        matrix = (np.eye(len(patch)) if matrix is None else matrix) * about_one(rng, settings.scale)
    elastic = None
    if rng.random() < settings.elastic_probability:
        amplitude, sigma = rng.uniform(*settings.elastic_amplitude), rng.uniform(*settings.elastic_sigma)
        noise = rng.random((len(patch), *patch), dtype=np.float32) * 2 - 1
        elastic = Elastic(float(amplitude), float(sigma), noise)
    gamma = None
    if rng.random() < settings.gamma_probability:
        gamma = tuple(about_one(rng, settings.gamma) for _ in range(channels))
    mirrored = tuple(bool(flip) for flip in rng.random(mirror_axes) < settings.mirror_probability)
    # Last, so that what a seed draws without this part stays what it was.
    intensity = draw_intensity(rng, settings.intensity, channels) if settings.intensity else None
    return Augmentation(matrix, elastic, mirrored, gamma, intensity)


def rotation(radians: NDArray[np.float64]) -> NDArray[np.float64]:
    """A rotation matrix: of the plane by one angle, or about the three axes one after another."""
    if len(radians) == 1:
        cosine, sine = math.cos(radians[0]), math.sin(radians[0])
        return np.array([[cosine, -sine], [sine, cosine]])
    result = np.eye(3)
    for axis, angle in enumerate(radians):
        single = np.eye(3)
        plane = [other for other in range(3) if other != axis]
        single[np.ix_(plane, plane)] = rotation(np.array([angle]))
        result = result @ single
    return result


def mirror(tensor: torch.Tensor, draws: Sequence[Augmentation], first_axis: int) -> torch.Tensor:
    """Flip each sample of (batch, ...) along its drawn axes, the first of which is `first_axis`; in place."""
    alike: dict[tuple[int, ...], list[tuple[int, None]]] = {}
    for index, item in enumerate(draws):
        axes = tuple(first_axis + offset for offset, flip in enumerate(item.mirrored) if flip)
        alike.setdefault(axes, []).append((index, None))
    for axes, samples in alike.items():
        if axes:
            change_rows(tensor, samples, partial(_flipped, axes=axes))
    return tensor


def _flipped(samples: torch.Tensor, _: Sequence[None], axes: tuple[int, ...]) -> torch.Tensor:
    return samples.flip(axes)


def adjust_gamma(image: torch.Tensor, draws: Sequence[Augmentation]) -> torch.Tensor:
    """Gamma correction of (batch, channel, *patch) with mean and deviation of each channel retained; in place."""
    channels = image.shape[1]
    values = itertools.chain(*(item.gamma or (None,) * channels for item in draws))
    chosen = [(row, exponent) for row, exponent in enumerate(values) if exponent is not None]
    change_rows(image.view(-1, *image.shape[2:]), chosen, gamma_correct)
    return image

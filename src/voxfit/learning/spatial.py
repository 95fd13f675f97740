"""Drawing the spatial augmentation of a sample: rotation, scaling, elastic deformation (method.md [T5]).

`warping` applies it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voxfit.imaging.geometry import Box
from voxfit.learning.randomness import RandomStreams, about_one
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
class Spatial:
    """Where the voxels of a patch come from. Axes are those of the plane or volume that is transformed.

    Attributes:
        matrix: takes offsets from the patch's centre to offsets in the image; None for the identity.
        elastic: added displacement; None for none.
    """

    matrix: NDArray[np.float64] | None = None
    elastic: Elastic | None = None

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


def draw_spatial(streams: RandomStreams, settings: AugmentationSet, patch: Sequence[int]) -> Spatial:
    """Draw the spatial augmentation of one sample; each part has random numbers of its own.

    Args:
        streams: of this sample.
        settings: ranges and probabilities.
        patch: 2 or 3 edges of what is transformed.
    """
    stretched = max(patch) > 1.5 * min(patch)
    matrix = None
    rng = streams.of("rotation")
    if rng.random() < settings.rotation_probability:
        largest = settings.stretched_rotation_degrees if stretched else settings.rotation_degrees
        matrix = rotation(np.deg2rad(rng.uniform(-largest, largest, 3 if len(patch) == 3 else 1)))
    rng = streams.of("scaling")
    if rng.random() < settings.scale_probability:
        matrix = (np.eye(len(patch)) if matrix is None else matrix) * about_one(rng, settings.scale)
    elastic = None
    rng = streams.of("elastic")
    if rng.random() < settings.elastic_probability:
        amplitude, sigma = rng.uniform(*settings.elastic_amplitude), rng.uniform(*settings.elastic_sigma)
        noise = rng.random((len(patch), *patch), dtype=np.float32) * 2 - 1
        elastic = Elastic(float(amplitude), float(sigma), noise)
    return Spatial(matrix, elastic)


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

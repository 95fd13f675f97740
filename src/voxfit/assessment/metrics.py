"""How well two masks agree: overlap, distances between surfaces, volume.

Masks are (z, y, x), of booleans or of integers where anything but 0 is inside. What is absent in both masks has no
value (None). What is absent in one is a complete failure: 0 where that has a number, None for a distance. Definitions
follow Taha & Hanbury, BMC Medical Imaging 15:29 (2015), and "Metrics reloaded" (Maier-Hein et al., Nature Methods
21:195, 2024).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from voxfit.core.errors import UsageError
from voxfit.imaging.geometry import Spacing, cut, nonzero_box

Mask = NDArray[np.generic]

_ROUNDING = 1e-6
"""Relative slack of distances: file headers hold spacings as 32-bit floats, so that 0.1 mm may be 0.1000000015 mm."""


def dice(reference: Mask, predicted: Mask) -> float | None:
    """Dice coefficient 2 |A and B| / (|A| + |B|), without unit, 0 (disjoint) to 1 (equal); Dice, Ecology 26:297 (1945).

    Returns:
        None where both masks are empty, 0 where one is.

    Raises:
        UsageError: the shapes differ.
    """
    first, second = _as_masks(reference, predicted)
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return float(2 * np.count_nonzero(first & second) / total) if total else None


def volume_ml(voxels: int, spacing_mm: Spacing) -> float:
    """Volume of a number of voxels in millilitres; spacing is (z, y, x), and 2D images count as 1 mm thick."""
    return float(voxels * math.prod(spacing_mm) / 1000)


@dataclass(frozen=True)
class SurfaceDistances:
    """How far each surface voxel of one mask is from the nearest surface voxel of the other, in millimetres.

    Attributes:
        reference_to_predicted_mm: one distance for each surface voxel of the reference; infinite where the prediction
            is empty.
        predicted_to_reference_mm: the same from the prediction.
    """

    reference_to_predicted_mm: NDArray[np.float64]
    predicted_to_reference_mm: NDArray[np.float64]


def surface_distances(reference: Mask, predicted: Mask, spacing_mm: Spacing) -> SurfaceDistances:
    """Measure the distances between two surfaces, between voxel centres, in both directions.

    The surface of a mask are its voxels with a face neighbour outside of the mask (6 neighbours, or 4 in an image of
    one slice, z = 1). Outside of the image counts as outside of the mask.

    Args:
        reference: (z, y, x).
        predicted: (z, y, x).
        spacing_mm: distance between voxels, (z, y, x).

    Raises:
        UsageError: the shapes differ.
    """
    first, second = _as_masks(reference, predicted)
    box = nonzero_box(first | second)
    if box is None:
        return SurfaceDistances(np.empty(0), np.empty(0))
    axes = range(1 if first.shape[0] == 1 else 0, first.ndim)
    # Whatever is cut away is outside of both masks, as the border of the cut then is.
    first_surface, second_surface = _surface(cut(first, box), axes), _surface(cut(second, box), axes)
    return SurfaceDistances(
        _to_nearest(first_surface, second_surface, spacing_mm), _to_nearest(second_surface, first_surface, spacing_mm)
    )


def hausdorff_95_mm(distances: SurfaceDistances) -> float | None:
    """95th percentile Hausdorff distance in millimetres: the larger of the two directions' 95th percentiles.

    Huttenlocher et al., IEEE TPAMI 15:850 (1993), ranked distances; percentiles between two distances are interpolated
    linearly. Tools that pool both directions before they take the percentile give other numbers.

    Returns:
        None where one mask is empty, or both.
    """
    directions = (distances.reference_to_predicted_mm, distances.predicted_to_reference_mm)
    if not all(len(direction) for direction in directions):
        return None
    return max(float(np.percentile(direction, 95)) for direction in directions)


def surface_dice(distances: SurfaceDistances, tolerance_mm: float) -> float | None:
    """Normalised surface Dice, without unit, 0 to 1: the share of both surfaces within `tolerance_mm` of the other.

    Nikolov et al., arXiv:1809.04430 (2018). Its elements here are surface voxels of equal weight, not areas of a mesh.

    Returns:
        None where both masks are empty, 0 where one is.
    """
    both = np.concatenate([distances.reference_to_predicted_mm, distances.predicted_to_reference_mm])
    return float(np.mean(both <= tolerance_mm * (1 + _ROUNDING))) if len(both) else None


def _as_masks(reference: Mask, predicted: Mask) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    if reference.shape != predicted.shape:
        raise UsageError(
            f"The reference has the shape {reference.shape}, the prediction {predicted.shape}. "
            "Compare masks of the same grid."
        )
    return reference.astype(np.bool_, copy=False), predicted.astype(np.bool_, copy=False)


def _surface(mask: NDArray[np.bool_], axes: range) -> NDArray[np.bool_]:
    """The voxels of `mask` that have a neighbour outside of it along one of `axes`."""
    padded = np.pad(mask, 1)
    inner = (slice(1, -1),) * mask.ndim
    inside = mask.copy()
    for axis in axes:
        inside &= np.roll(padded, 1, axis)[inner]
        inside &= np.roll(padded, -1, axis)[inner]
    return mask & ~inside


def _to_nearest(start: NDArray[np.bool_], target: NDArray[np.bool_], spacing_mm: Spacing) -> NDArray[np.float64]:
    """Distance of each voxel of `start` to the nearest voxel of `target`; infinite where there is none."""
    own = np.nonzero(start)
    if not target.any():
        return np.full(len(own[0]), np.inf)
    # The nearest voxels alone, and distances only where they are needed: half the time of the dense transform, and a
    # fraction of its memory.
    nearest = distance_transform_edt(~target, sampling=spacing_mm, return_distances=False, return_indices=True)
    steps = [(there[own] - here) * size for there, here, size in zip(nearest, own, spacing_mm, strict=True)]
    return np.sqrt(np.sum(np.square(steps), axis=0, dtype=np.float64))

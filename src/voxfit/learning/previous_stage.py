"""Corrupting the previous stage's segmentation, so that the second stage does not just copy it (method.md [T7])."""

from __future__ import annotations

from collections.abc import Callable

import cc3d
import numpy as np
from numpy.typing import NDArray

from voxfit.planning.recipes import PreviousStageAugmentation

Mask = NDArray[np.bool_]


def corrupt_segmentation(
    rng: np.random.Generator,
    segmentation: NDArray[np.int16],
    classes: int,
    settings: PreviousStageAugmentation,
    patch_voxels: int,
) -> NDArray[np.int16]:
    """Apply random morphology to each class, and remove random small components.

    Args:
        rng: of this sample alone.
        segmentation: (z, y, x) class indices; not changed.
        classes: foreground classes.
        settings: probabilities and ranges.
        patch_voxels: the size that components are compared with.
    """
    result = segmentation.copy()
    if rng.random() < settings.morphology_probability:
        for index in rng.permutation(classes) + 1:
            operation = OPERATIONS[int(rng.integers(len(OPERATIONS)))]
            radius = int(rng.integers(settings.radius[0], settings.radius[1] + 1))
            _replace(result, int(index), operation, radius)
    if rng.random() < settings.removal_probability:
        for index in range(1, classes + 1):
            _remove_component(rng, result, index, settings.removal_share * patch_voxels)
    return result


def dilate(mask: Mask, radius: int) -> Mask:
    """All voxels within `radius` (Euclidean, voxels) of the mask.

    Squared distances are integers, found axis by axis, and of no interest beyond the radius: for the radii of [T7] that
    is many times faster than a distance transform of the patch.
    """
    kind = np.min_scalar_type(2 * radius**2 + 1)
    squared = np.where(mask, 0, radius**2 + 1).astype(kind)
    for axis in range(mask.ndim):
        before = np.ascontiguousarray(np.moveaxis(squared, axis, 0))
        after = before.copy()
        for step in range(1, min(radius, len(before) - 1) + 1):
            farther = before + kind.type(step**2)
            np.minimum(after[:-step], farther[step:], out=after[:-step])
            np.minimum(after[step:], farther[:-step], out=after[step:])
        squared = np.moveaxis(after, 0, axis)
    return np.asarray(squared <= radius**2)


def erode(mask: Mask, radius: int) -> Mask:
    """The voxels whose ball of `radius` lies in the mask; what is beyond the patch does not count."""
    return ~dilate(~mask, radius)


def opened(mask: Mask, radius: int) -> Mask:
    """Erosion, then dilation."""
    return dilate(erode(mask, radius), radius)


def closed(mask: Mask, radius: int) -> Mask:
    """Dilation, then erosion."""
    return erode(dilate(mask, radius), radius)


OPERATIONS: tuple[Callable[[Mask, int], Mask], ...] = (dilate, erode, opened, closed)


def _replace(segmentation: NDArray[np.int16], index: int, operation: Callable[[Mask, int], Mask], radius: int) -> None:
    """A class becomes what the operation makes of it; it takes voxels from others, and leaves background."""
    before = segmentation == index
    if before.any():
        segmentation[before] = 0
        segmentation[operation(before, radius)] = index


def _remove_component(rng: np.random.Generator, segmentation: NDArray[np.int16], index: int, largest: float) -> None:
    """Remove one random component of a class, of those with fewer than `largest` voxels."""
    components, count = cc3d.connected_components(segmentation == index, connectivity=26, return_N=True)
    sizes = np.bincount(components.ravel(), minlength=count + 1)
    small = [number for number in range(1, count + 1) if sizes[number] < largest]
    if small:
        segmentation[components == small[int(rng.integers(len(small)))]] = 0

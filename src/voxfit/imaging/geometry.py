"""Where voxels are: axis order, spacing, boxes. Arrays are (z, y, x) everywhere inside voxfit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)
Shape = tuple[int, ...]
Spacing = tuple[float, ...]


@dataclass(frozen=True)
class Geometry:
    """The voxel grid of an image in physical space.

    Attributes:
        shape: (z, y, x); a 2D image has z = 1.
        spacing_mm: distance between voxels, (z, y, x); 1 along z for a 2D image.
        origin_mm: position of the first voxel, (x, y, z) as the file formats have it.
        direction: row-major 3 x 3 matrix in (x, y, z) order as the file formats have it.
        dimension: 2 or 3, of the file.
    """

    shape: Shape
    spacing_mm: Spacing
    origin_mm: tuple[float, ...] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    dimension: int = 3

    def affine(self) -> NDArray[np.float64]:
        """The 4 x 4 matrix that takes a voxel index (x, y, z, 1) to millimetres (x, y, z, 1)."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.reshape(self.direction, (3, 3)) * np.asarray(self.spacing_mm[::-1])
        matrix[:3, 3] = self.origin_mm
        return matrix

    def farthest_corner_gap(self, other: Geometry) -> float:
        """Largest distance between corresponding corners of two grids of equal shape, in voxels of this one."""
        last = np.asarray(self.shape[::-1]) - 1
        corners = np.array([(*(last * [i & 1, i >> 1 & 1, i >> 2 & 1]), 1) for i in range(8)]).T
        gap_mm = (self.affine() @ corners - other.affine() @ corners)[:3]
        # Along a single-voxel axis (2D images) the extent is arbitrary, the in-plane axes decide.
        sizes = [size for size, count in zip(self.spacing_mm, self.shape, strict=True) if count > 1] or [1.0]
        return float(np.linalg.norm(gap_mm, axis=0).max() / min(sizes))


@dataclass(frozen=True)
class Box:
    """A half-open box of voxels: `start` included, `stop` not. It may reach outside of an array."""

    start: Shape
    stop: Shape

    @property
    def shape(self) -> Shape:
        """Voxels along each axis."""
        return tuple(stop - start for start, stop in zip(self.start, self.stop, strict=True))

    def to_slices(self) -> tuple[slice, ...]:
        """Slices of the spatial axes; only for boxes inside the array."""
        return tuple(slice(start, stop) for start, stop in zip(self.start, self.stop, strict=True))

    def moved(self, by: Sequence[int]) -> Box:
        """The box, so many voxels further along each axis."""
        return Box(
            tuple(start + step for start, step in zip(self.start, by, strict=True)),
            tuple(stop + step for stop, step in zip(self.stop, by, strict=True)),
        )

    @staticmethod
    def whole(shape: Sequence[int]) -> Box:
        """The box that covers an array of this shape."""
        return Box((0,) * len(shape), tuple(shape))


def nonzero_box(mask: NDArray[np.bool_]) -> Box | None:
    """The smallest box around the true voxels of `mask`; None when there are none."""
    starts, stops = [], []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        hits = np.flatnonzero(mask.any(axis=others))
        if not len(hits):
            return None
        starts.append(int(hits[0]))
        stops.append(int(hits[-1]) + 1)
    return Box(tuple(starts), tuple(stops))


def cut(array: NDArray[Scalar], box: Box, fill: float = 0, *, copy: bool = True) -> NDArray[Scalar]:
    """Cut a box out of the trailing axes of `array`; what lies outside of it becomes `fill`.

    Without `copy` a box that lies inside is a view.
    """
    spatial = array.shape[-len(box.start) :]
    low = [min(max(start, 0), size) for start, size in zip(box.start, spatial, strict=True)]
    high = [max(min(stop, size), first) for stop, size, first in zip(box.stop, spatial, low, strict=True)]
    part = array[_trailing(Box(tuple(low), tuple(high)))]
    if part.shape[-len(spatial) :] == box.shape:
        return np.array(part) if copy else part
    result = np.full((*array.shape[: -len(spatial)], *box.shape), fill, array.dtype)
    inside = Box(
        tuple(first - start for first, start in zip(low, box.start, strict=True)),
        tuple(last - start for last, start in zip(high, box.start, strict=True)),
    )
    result[_trailing(inside)] = part
    return result


def paste(part: NDArray[Scalar], box: Box, shape: Shape) -> NDArray[Scalar]:
    """The inverse of a crop: an array of zeros of `shape` (spatial) with `part` in `box`."""
    result = np.zeros((*part.shape[: -len(shape)], *shape), part.dtype)
    result[_trailing(box)] = part
    return result


def _trailing(box: Box) -> tuple[Any, ...]:
    return (..., *box.to_slices())

"""Where voxels are: axis order, spacing, boxes. Arrays are (z, y, x) everywhere inside voxfit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)
Size = TypeVar("Size", int, float)
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
        oriented: whether `direction` is known; pictures, and NIfTI headers without any code, do not say it.
    """

    shape: Shape
    spacing_mm: Spacing
    origin_mm: tuple[float, ...] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    dimension: int = 3
    oriented: bool = True

    @property
    def orientation(self) -> str:
        """Where the axes (x, y, z) of the voxels point: "LPS" is left, posterior, superior. Empty where unknown.

        An oblique axis counts as the closest axis of the patient, as in SimpleITK's `DICOMOrient`.
        """
        if self.dimension == 2 or not self.oriented:
            return ""
        closest = _closest_axes(np.reshape(self.direction, (3, 3)))
        return "".join(_ENDS[axis][sign > 0] for axis, sign in closest)

    def affine(self) -> NDArray[np.float64]:
        """The 4 x 4 matrix that takes a voxel index (x, y, z, 1) to millimetres (x, y, z, 1)."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.reshape(self.direction, (3, 3)) * np.asarray(self.spacing_mm[::-1])
        matrix[:3, 3] = self.origin_mm
        return matrix

    def farthest_corner_gap(self, other: Geometry) -> float:
        """Largest distance between corresponding corners of two grids of equal shape, in voxels of this one."""
        return corner_gap(self.affine(), other.affine(), self.shape) / self.finest_mm

    @property
    def finest_mm(self) -> float:
        """The smallest spacing; along a single-voxel axis (2D images) it is arbitrary, the in-plane axes decide."""
        return min([size for size, count in zip(self.spacing_mm, self.shape, strict=True) if count > 1] or [1.0])


def corner_gap(one: NDArray[np.float64], other: NDArray[np.float64], shape: Shape) -> float:
    """Largest distance between the places that two affines give to a corner of a grid of (z, y, x) voxels."""
    last = np.asarray(shape[::-1]) - 1
    corners = np.array([(*(last * [i & 1, i >> 1 & 1, i >> 2 & 1]), 1) for i in range(8)]).T
    return float(np.linalg.norm(((one - other) @ corners)[:3], axis=0).max())


_ENDS = ("RL", "AP", "IS")
"""Against and along each axis of the patient, x, y and z."""


def _closest_axes(direction: NDArray[np.float64]) -> list[tuple[int, float]]:
    """For each axis of the voxels, the patient's axis of largest cosine that no other has taken, and that cosine."""
    found: dict[int, tuple[int, float]] = {}
    ranked = sorted(np.ndindex(3, 3), key=lambda pair: (abs(direction[pair]), pair), reverse=True)
    for axis, voxel_axis in ranked:
        if voxel_axis not in found and axis not in {taken for taken, _ in found.values()}:
            found[voxel_axis] = (axis, float(direction[axis, voxel_axis]))
    return [found[voxel_axis] for voxel_axis in range(3)]


def is_orientation(code: str) -> bool:
    """Whether a text names an axis of the patient for each axis of the voxels, as "LPS" does."""
    return sorted(next((axis for axis in range(3) if end in _ENDS[axis]), 3) for end in code) == [0, 1, 2]


def usual_orientation(orientations: Sequence[str]) -> str:
    """That of most images, of the first of them on a tie; empty where it is unknown of most."""
    return Counter(orientations).most_common(1)[0][0] if orientations else ""


@dataclass(frozen=True)
class Turn:
    """The way from one order and direction of axes to another: axes change places, then some are reversed.

    No voxel changes its value or its place in the patient.

    Attributes:
        axes: for each of the new (z, y, x), which of the old it is.
        flips: which of the new are reversed.
    """

    axes: tuple[int, ...]
    flips: tuple[bool, ...]

    @staticmethod
    def between(old: str, new: str) -> Turn | None:
        """From one orientation to another; None where they are the same, or one is unknown."""
        if not old or not new or old == new:
            return None
        patient = [[next(axis for axis in range(3) if end in _ENDS[axis]) for end in code[::-1]] for code in (old, new)]
        axes = tuple(patient[0].index(axis) for axis in patient[1])
        return Turn(axes, tuple(old[::-1][axis] != end for axis, end in zip(axes, new[::-1], strict=True)))

    def order(self, sizes: Sequence[Size]) -> tuple[Size, ...]:
        """A shape or a spacing (z, y, x) on the new axes."""
        return tuple(sizes[axis] for axis in self.axes)

    def apply(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        """A view of (..., z, y, x) voxels on the new axes."""
        return self._reversed(_transposed(array, self.axes))

    def undo(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        """A view of (..., z, y, x) voxels on the old axes: the inverse of `apply`."""
        return _transposed(self._reversed(array), np.argsort(self.axes).tolist())

    def _reversed(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        steps: tuple[Any, ...] = tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)
        return array[(..., *steps)]


def _transposed(array: NDArray[Scalar], axes: Sequence[int]) -> NDArray[Scalar]:
    """A view of (..., z, y, x) voxels with the spatial axes in another order."""
    return array.transpose(*range(array.ndim - 3), *(axis - 3 for axis in axes))


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
    """Cut a box out of the trailing (spatial) axes of an array.

    Args:
        array: (..., z, y, x).
        box: may reach outside of the array.
        fill: the value of voxels outside of the array.
        copy: False: a box that lies inside of the array is a view.
    """
    spatial = array.shape[-len(box.start) :]
    low = [min(max(start, 0), size) for start, size in zip(box.start, spatial, strict=True)]
    high = [max(min(stop, size), first) for stop, size, first in zip(box.stop, spatial, low, strict=True)]
    inside = Box(tuple(low), tuple(high))
    part = array[_trailing(inside)]
    if part.shape[-len(spatial) :] == box.shape:
        return np.array(part) if copy else part
    result = np.full((*array.shape[: -len(spatial)], *box.shape), fill, array.dtype)
    result[_trailing(inside.moved([-start for start in box.start]))] = part
    return result


def paste(part: NDArray[Scalar], box: Box, shape: Shape) -> NDArray[Scalar]:
    """The inverse of a crop: an array of zeros of `shape` (spatial) with `part` in `box`."""
    result = np.zeros((*part.shape[: -len(shape)], *shape), part.dtype)
    result[_trailing(box)] = part
    return result


def _trailing(box: Box) -> tuple[Any, ...]:
    return (..., *box.to_slices())

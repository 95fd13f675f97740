"""Separable resampling by small dense matrices, one an axis; prefilter and edges are folded into them.

A spline of order 3 is a linear, separable operation. Its matrix for one axis comes from applying SciPy's `zoom` to the
unit vectors, so the result is SciPy's and scikit-image's (`resize`, mode "edge", no anti-aliasing), by three matrix
products in place of a walk through all voxels. An axis that is resampled separately, by nearest neighbour, needs no
matrix: slices are taken by their indices.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

_NEGLIGIBLE = 1e-9
"""Matrix entries below this are set to zero: left in, they become denormal numbers, which are very slow."""

_AT_ONCE = 2**20
"""Voxels whose labels are decided together: it bounds the memory."""

Scalar = TypeVar("Scalar", bound=np.generic)
Index = TypeVar("Index", bound=np.integer[Any])


def coarse_axis(spacing_mm: Sequence[float], new_spacing_mm: Sequence[float], ratio: float | None) -> int | None:
    """The axis that is resampled separately on the way from one spacing to another (as in nnU-Net v2).

    The first of the two spacings decides in which one voxels are more than `ratio` times longer than they are wide.
    Where they are so along two axes, none is resampled separately. There and back may therefore differ.

    Args:
        spacing_mm: of the grid that is left.
        new_spacing_mm: of the grid that is reached.
        ratio: see `Preparation.coarse_axis_ratio`.

    Returns:
        the index of the axis, or None.
    """
    for spacing in (spacing_mm, new_spacing_mm):
        longest = max(spacing)
        if ratio is not None and longest / min(spacing) > ratio:
            axes = [axis for axis, size in enumerate(spacing) if longest / size == 1]
            return axes[0] if len(axes) == 1 else None
    return None


@lru_cache(maxsize=128)
def axis_matrix(old: int, new: int, order: Literal[1, 3]) -> NDArray[np.float32]:
    """The (new, old) matrix that resamples one axis; voxel centres keep their place in the common extent.

    Args:
        old: voxels before.
        new: voxels after.
        order: of the spline, 1 or 3.
    """
    import scipy.ndimage  # late: it takes a quarter of a second, and often no axis is resampled

    # Zooming the second axis by 1 keeps it as it is.
    factors = np.array([new / old, 1.0])
    matrix = np.asarray(scipy.ndimage.zoom(np.eye(old), factors, order=order, mode="nearest", grid_mode=True))
    matrix[np.abs(matrix) < _NEGLIGIBLE] = 0
    return matrix.astype(np.float32)


def resample(
    array: NDArray[np.float32],
    shape: tuple[int, ...],
    order: Literal[1, 3],
    *,
    separate_axis: int | None = None,
    clip: bool = False,
) -> NDArray[np.float32]:
    """Resample the last three axes (z, y, x) to `shape` with a spline (method.md [P2], order 3; [I3], order 1).

    Args:
        array: (channel, z, y, x).
        shape: the new (z, y, x).
        order: 1 or 3.
        separate_axis: the one of (z, y, x) that is resampled by nearest neighbour, if any (see `coarse_axis`).
        clip: cut off what the spline adds beyond the range of the values: of each channel, or of each of its slices
            across the axis that is resampled separately.
    """
    result = array
    axes = [axis for axis in range(3) if axis != separate_axis and array.shape[axis + 1] != shape[axis]]
    # The axis that shrinks most (or grows least) goes first: fewer voxels for the others.
    for axis in sorted(axes, key=lambda axis: shape[axis] / array.shape[axis + 1]):
        result = along_axis(axis_matrix(array.shape[axis + 1], shape[axis], order), result, axis)
    if clip and axes:
        across = tuple(axis + 1 for axis in range(3) if axis != separate_axis)
        result.clip(array.min(axis=across, keepdims=True), array.max(axis=across, keepdims=True), out=result)
    if separate_axis is not None and array.shape[separate_axis + 1] != shape[separate_axis]:
        result = result.take(
            nearest_voxels(array.shape[separate_axis + 1], shape[separate_axis]), axis=separate_axis + 1
        )
    return np.ascontiguousarray(result)


def along_axis(matrix: NDArray[np.float32], array: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Multiply one spatial axis of (channel, z, y, x) by a (new, old) matrix, without transposing the array."""
    channels, depth, height, width = array.shape
    if axis == 2:
        flat = array.reshape(-1, width) @ matrix.T
        return flat.reshape(channels, depth, height, -1)
    columns = array if axis == 1 else array.reshape(channels, depth, -1)
    product: NDArray[np.float32] = np.matmul(matrix, columns)
    return product if axis == 1 else product.reshape(channels, -1, height, width)


def _centres(old: int, new: int) -> NDArray[np.float64]:
    """Where the centres of new voxels lie among the old ones, in the arithmetic of SciPy, so that ties are its ties."""
    centres: NDArray[np.float64] = (np.arange(new, dtype=np.float64) + 0.5) * (old / new) - 0.5
    return centres


def nearest_voxels(old: int, new: int) -> NDArray[np.intp]:
    """For each of the `new` voxels of an axis, the nearest of the `old` ones."""
    return np.floor(_centres(old, new) + 0.5).clip(0, old - 1).astype(np.intp)


def resample_nearest(array: NDArray[Scalar], shape: tuple[int, ...]) -> NDArray[Scalar]:
    """Resample a label map (z, y, x) to `shape` by nearest neighbour: no value is invented (method.md [P2])."""
    if array.shape == shape:
        return array
    return _pick(array, [nearest_voxels(old, new) for old, new in zip(array.shape, shape, strict=True)])


def _pick(array: NDArray[Scalar], indices: Sequence[NDArray[np.intp]]) -> NDArray[Scalar]:
    """The voxels (z, y, x) at the product of indices: axis by axis, several times faster than all at once."""
    # As in `resample`; of axes that change alike the last goes first, for the others then copy whole rows.
    ratios = [(len(index) / size, -axis) for axis, (index, size) in enumerate(zip(indices, array.shape, strict=True))]
    for _, axis in sorted(ratios):
        array = array.take(indices[-axis], axis=-axis)
    return array


def resample_linear(
    label: NDArray[Index], shape: tuple[int, ...], *, separate_axis: int | None = None
) -> NDArray[Index]:
    """Resample a label map (z, y, x) to `shape`: each voxel takes the label whose mask, interpolated linearly, is most.

    Where two labels have equally much, the one of the nearest old voxel wins if it is among them, else the smaller.
    This is nnU-Net v2's way (batchgenerators 0.25.5, `resize_segmentation`), negative labels counting as any other.

    Args:
        label: class indices.
        shape: the new (z, y, x).
        separate_axis: the axis that is resampled by nearest neighbour, if any.
    """
    if label.shape == shape:
        return label
    axes = [
        _Neighbours.of(old, new, nearest=axis == separate_axis)
        for axis, (old, new) in enumerate(zip(label.shape, shape, strict=True))
    ]
    # Most voxels have neighbours of one label only, and take it.
    result = _pick(label, [neighbours.nearest for neighbours in axes])
    mixed = np.flatnonzero(_pick(_is_edge(label, separate_axis), [neighbours.lower for neighbours in axes]))
    for first in range(0, len(mixed), _AT_ONCE):
        part = mixed[first : first + _AT_ONCE]
        result.flat[part] = _most(label, axes, np.unravel_index(part, shape))
    return result


def _is_edge(label: NDArray[Index], separate_axis: int | None) -> NDArray[np.bool_]:
    """Whether the labels of a voxel and of those that follow it along the axes, and so diagonally, differ."""
    edge = np.zeros(label.shape, bool)
    for axis in range(3):
        if axis != separate_axis:
            this, following = ((slice(None),) * axis + (part,) for part in (slice(None, -1), slice(1, None)))
            # Two faces of one label each differ where their first voxels do.
            edge[this] |= edge[following]
            edge[this] |= label[this] != label[following]
    return edge


@dataclass(frozen=True)
class _Neighbours:
    """For each new voxel of one axis, the old ones that it lies between, the weight of the lower, and the nearest."""

    lower: NDArray[np.intp]
    upper: NDArray[np.intp]
    weight: NDArray[np.float64]
    nearest: NDArray[np.intp]

    @staticmethod
    def of(old: int, new: int, *, nearest: bool) -> _Neighbours:
        closest = nearest_voxels(old, new)
        if nearest:
            return _Neighbours(closest, closest, np.ones(new), closest)
        centres = _centres(old, new)
        below = np.floor(centres)
        # Beyond the outermost voxels both neighbours are the outermost.
        lower, upper = ((below + step).clip(0, old - 1).astype(np.intp) for step in (0, 1))
        return _Neighbours(lower, upper, 1 - (centres - below), closest)


def _most(label: NDArray[Index], axes: Sequence[_Neighbours], voxels: tuple[NDArray[np.intp], ...]) -> NDArray[Index]:
    """The labels of some new voxels, given by their indices on each axis."""
    places = list(zip(axes, voxels, strict=True))
    corners, weights = [], []
    # The weights and the order of products and sums are SciPy's: only so do sums tie where they tie there.
    for upper in itertools.product((False, True), repeat=3):
        weight = np.ones(len(voxels[0]))
        for (axis, index), up in zip(places, upper, strict=True):
            weight = weight * (1 - axis.weight[index] if up else axis.weight[index])
        position = tuple(
            (axis.upper if up else axis.lower)[index] for (axis, index), up in zip(places, upper, strict=True)
        )
        corners.append(label[position])
        weights.append(weight)
    found = np.array(corners)
    # Where few labels occur, each of them is asked for once, in place of each corner's.
    labels = np.unique(found)
    wanted = labels[:, None] if len(labels) < len(corners) else found
    sums = np.array(
        [sum(weight * (corner == one) for corner, weight in zip(corners, weights, strict=True)) for one in wanted]
    )
    leading = sums == sums.max(axis=0)
    nearest = label[tuple(axis.nearest[index] for axis, index in places)]
    smallest = np.where(leading, wanted, labels[-1]).min(axis=0)
    return np.where((leading & (wanted == nearest)).any(axis=0), nearest, smallest)

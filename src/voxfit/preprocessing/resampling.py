"""Separable resampling by small dense matrices, one an axis; prefilter and edges are folded into them.

A spline of order 3 is a linear, separable operation. Its matrix for one axis comes from applying SciPy's `zoom` to the
unit vectors, so the result is SciPy's and scikit-image's (`resize`, mode "edge", no anti-aliasing), by three matrix
products in place of a walk through all voxels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, TypeVar

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

_NEGLIGIBLE = 1e-9
"""Matrix entries below this are set to zero: left in, they become denormal numbers, which are very slow."""

Scalar = TypeVar("Scalar", bound=np.generic)


@lru_cache(maxsize=128)
def axis_matrix(old: int, new: int, order: Literal[1, 3]) -> NDArray[np.float32]:
    """The (new, old) matrix that resamples one axis; voxel centres keep their place in the common extent.

    Args:
        old: voxels before.
        new: voxels after.
        order: of the spline, 1 or 3.
    """
    # Zooming the second axis by 1 keeps it as it is.
    factors = np.array([new / old, 1.0])
    matrix = np.asarray(scipy.ndimage.zoom(np.eye(old), factors, order=order, mode="nearest", grid_mode=True))
    matrix[np.abs(matrix) < _NEGLIGIBLE] = 0
    return matrix.astype(np.float32)


def resample(array: NDArray[np.float32], shape: tuple[int, ...], order: Literal[1, 3]) -> NDArray[np.float32]:
    """Resample the last three axes (z, y, x) to `shape` with a spline (method.md [P2], order 3; [I3], order 1).

    Args:
        array: (channel, z, y, x).
        shape: the new (z, y, x).
        order: 1 or 3.
    """
    result = array
    # The axis that shrinks most (or grows least) goes first: fewer voxels for the others.
    for axis in sorted(range(3), key=lambda axis: shape[axis] / array.shape[axis + 1]):
        old, new = array.shape[axis + 1], shape[axis]
        if old != new:
            result = _along(axis_matrix(old, new, order), result, axis)
    return np.ascontiguousarray(result)


def _along(matrix: NDArray[np.float32], array: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Multiply one spatial axis of (channel, z, y, x) by a matrix, without transposing the array."""
    channels, depth, height, width = array.shape
    if axis == 2:
        flat = array.reshape(-1, width) @ matrix.T
        return flat.reshape(channels, depth, height, -1)
    columns = array if axis == 1 else array.reshape(channels, depth, -1)
    product: NDArray[np.float32] = np.matmul(matrix, columns)
    return product if axis == 1 else product.reshape(channels, -1, height, width)


def resample_nearest(array: NDArray[Scalar], shape: tuple[int, ...]) -> NDArray[Scalar]:
    """Resample a label map (z, y, x) to `shape` by nearest neighbour: no value is invented (method.md [P2])."""
    if array.shape == shape:
        return array
    rows = [
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.intp), old - 1)
        for old, new in zip(array.shape, shape, strict=True)
    ]
    return array[np.ix_(*rows)]

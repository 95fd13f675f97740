"""Bring the outputs of networks back to the grid of the image, plane by plane (method.md [I3], [I4]).

Outputs are never held for a whole volume: as soon as a slab of the prepared grid is final, it is interpolated to the
image's grid, averaged over the configurations, and reduced to class indices. Where even a slab of all outputs is too
much, the image is divided into columns, one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxfit.core.errors import MemoryLimitError
from voxfit.core.formatting import format_bytes
from voxfit.imaging.geometry import Box
from voxfit.preprocessing.case import PreprocessingGeometry
from voxfit.preprocessing.output_resampling import LazyOutput, Regridding, Values, along, chunk_planes

Indices = NDArray[np.integer[Any]]
Decide = Callable[[Values], Indices]
"""Makes (...) class indices of (output, ...) values."""


Part = tuple[LazyOutput, PreprocessingGeometry]
"""The output of one configuration for a case, and where its prepared grid lies in the image."""


def revert_preprocessing(
    parts: Sequence[Part],
    decide: Decide,
    activate: Callable[[Values], Values] | None = None,
    memory: int | None = None,
) -> Indices:
    """The class indices of a case on the image's grid; background outside of the crop.

    Interpolation is linear, but nearest along an axis that is resampled separately. Several parts are averaged on the
    image's grid.

    Args:
        parts: of one case.
        decide: what makes class indices of (averaged) outputs.
        activate: applied to the outputs of each of several parts before they are averaged.
        memory: bytes that the outputs may take; None for one column.

    Raises:
        MemoryLimitError: `memory` is not enough.
    """
    placement = parts[0][1]
    grids = [Regridding.of(source, where.crop.shape, where.coarse_axis) for source, where in parts]
    return placement.uncrop(regridded(grids, decide, activate, memory))


def regridded(
    grids: Sequence[Regridding],
    decide: Decide,
    activate: Callable[[Values], Values] | None = None,
    memory: int | None = None,
) -> Indices:
    """The class indices of outputs that are brought to a common grid; see `revert_preprocessing`."""
    shape = grids[0].shape
    axis = stream_axis(grids)
    result: Indices | None = None
    for column in columns(grids, axis, memory):
        planes = chunk_planes(grids, column, axis)
        streams = [grid.stream(column, axis) for grid in grids]
        for first in range(0, shape[axis], planes):
            last = min(first + planes, shape[axis])
            values = [stream.read(first, last) for stream in streams]
            indices = decide(values[0] if len(values) == 1 else _mean(values, activate))
            if result is None:
                result = np.zeros(shape, indices.dtype)
            result[along(column, axis, first, last).to_slices()] = indices
    assert result is not None  # no grid is empty
    return result


def _mean(values: Sequence[Values], activate: Callable[[Values], Values] | None) -> Values:
    activated = [activate(item) if activate else item for item in values]
    return np.asarray(sum(activated[1:], activated[0]) / len(values), np.float32)


def stream_axis(grids: Sequence[Regridding]) -> int:
    """The axis that is walked along: where planes are smallest and slabs, therefore, need least; z on a tie."""
    shape = grids[0].shape
    held = [sum(grid.source.slab_bytes(Box.whole(grid.source.shape), axis) for grid in grids) for axis in range(3)]
    planes = [math.prod(shape) // shape[axis] for axis in range(3)]
    # Along z memory is walked in order: another axis must save a third.
    return min(range(3), key=lambda axis: (held[axis] * (1.0 if axis else 0.67), planes[axis], axis))


def columns(grids: Sequence[Regridding], axis: int, memory: int | None) -> list[Box]:
    """The boxes of the common grid that are made one after another, each over the full length of an axis.

    Args:
        grids: what is brought to the common grid.
        axis: that is walked along.
        memory: bytes that one column may take.

    Raises:
        MemoryLimitError: not even small columns are small enough.
    """
    shape = grids[0].shape
    parts = [1, 1, 1]
    while True:
        found = list(_divided(shape, parts))
        largest = max(found, key=lambda box: math.prod(box.shape))
        needed = column_bytes(grids, largest, axis)
        if memory is None or needed <= memory:
            return found
        widest = max((other for other in range(3) if other != axis), key=lambda other: largest.shape[other])
        if largest.shape[widest] < _NARROWEST:
            raise MemoryLimitError(
                f"Even in {len(found)} columns, the outputs of this image take {format_bytes(needed)}; "
                f"{format_bytes(memory)} are left for them."
            )
        parts[widest] += max(parts[widest] // 4, 1)


_NARROWEST = 8


def _divided(shape: Sequence[int], parts: Sequence[int]) -> Iterator[Box]:
    """A box in `parts` pieces along each axis."""
    pieces = [
        pairwise([round(size * index / count) for index in range(count + 1)])
        for size, count in zip(shape, parts, strict=True)
    ]
    for ranges in product(*pieces):
        starts, stops = zip(*ranges, strict=True)
        yield Box(starts, stops)


def column_bytes(grids: Sequence[Regridding], column: Box, axis: int) -> int:
    """Memory that one column takes at most: slabs in work, what waits for interpolation, and a chunk of outputs."""
    planes = min(chunk_planes(grids, column, axis), column.shape[axis])
    total = 0
    for grid in grids:
        region = grid.region(column)
        ratio = region.shape[axis] / column.shape[axis]
        waiting = 4 * grid.source.outputs * math.prod(region.shape) / region.shape[axis] * (2 * planes * ratio + 2)
        chunk = 4 * grid.source.outputs * math.prod(column.shape) / column.shape[axis] * planes
        # An interpolation has its input and its result at once; the mean and the decision need as much again.
        total += grid.source.slab_bytes(region, axis) + int(waiting + 3 * chunk)
    return total

"""Bring what networks say back to the image's grid, plane by plane (method.md [I3], [I4]).

Outputs are never held for a whole volume: as soon as a slab of the prepared grid is final, it is interpolated to the
image's grid, averaged over the configurations, and reduced to class indices. Where even a slab of all outputs is too
much, the image is divided into columns, one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from voxfit.core.errors import MemoryLimitError
from voxfit.core.memory import in_words
from voxfit.imaging.geometry import Box
from voxfit.preprocessing.case import Placement
from voxfit.preprocessing.resampling import along_axis, axis_matrix, nearest_voxels

_CHUNK_BYTES = 2**25
"""Outputs on the image's grid are computed in pieces of this size, which a processor's cache holds in good part."""

Values = NDArray[np.float32]
Indices = NDArray[np.integer[Any]]
Decide = Callable[[Values], Indices]
"""Makes (...) class indices of (output, ...) values."""


class Source(Protocol):
    """What one configuration says of a case, on the prepared grid."""

    @property
    def outputs(self) -> int:
        """Channels."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """(z, y, x) of the prepared grid."""
        ...

    def slabs(self, region: Box, axis: int, planes: int) -> Iterator[Values]:
        """All of `region`, cut along `axis` into slabs (output, z, y, x) of at most `planes` planes, in order.

        A slab is valid until the next one is asked for.
        """
        ...

    def slab_bytes(self, region: Box, axis: int) -> int:
        """Memory that is held while the slabs of a region are made."""
        ...


@dataclass(frozen=True)
class Computed:
    """A source whose (output, z, y, x) values are all there."""

    values: Values

    @property
    def outputs(self) -> int:
        """Channels."""
        return len(self.values)

    @property
    def shape(self) -> tuple[int, ...]:
        """(z, y, x)."""
        return self.values.shape[1:]

    def slabs(self, region: Box, axis: int, planes: int) -> Iterator[Values]:
        """See `Source`."""
        for first in range(region.start[axis], region.stop[axis], planes):
            last = min(first + planes, region.stop[axis])
            yield self.values[(slice(None), *along(region, axis, first, last).to_slices())]

    def slab_bytes(self, region: Box, axis: int) -> int:
        """Nothing more than what is there."""
        return 0


Part = tuple[Source, Placement]
"""What one configuration says of a case, and where its prepared grid lies in the image."""


def along(box: Box, axis: int, first: int, last: int) -> Box:
    """The part of a box from plane `first` to before `last` of an axis."""
    return Box(
        (*box.start[:axis], first, *box.start[axis + 1 :]),
        (*box.stop[:axis], last, *box.stop[axis + 1 :]),
    )


def restore(
    parts: Sequence[Part],
    decide: Decide,
    activate: Callable[[Values], Values] | None = None,
    memory: int | None = None,
) -> Indices:
    """The class indices of a case on the image's grid; background outside of the crop.

    Interpolation is linear, but nearest along an axis that is apart. Several parts are averaged on the image's grid.

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
    """The class indices of sources on a common grid; see `restore`."""
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
                f"Even in {len(found)} columns, the outputs of this image take {in_words(needed)}; "
                f"{in_words(memory)} are left for them."
            )
        parts[widest] += max(parts[widest] // 4, 1)


_NARROWEST = 8


def _divided(shape: Sequence[int], parts: Sequence[int]) -> Iterator[Box]:
    """A box in `parts` pieces along each axis."""
    edges = [
        [round(size * index / count) for index in range(count + 1)] for size, count in zip(shape, parts, strict=True)
    ]
    for z in range(parts[0]):
        for y in range(parts[1]):
            for x in range(parts[2]):
                where = list(zip(edges, (z, y, x), strict=True))
                yield Box(tuple(edge[index] for edge, index in where), tuple(edge[index + 1] for edge, index in where))


def chunk_planes(grids: Sequence[Regridding], column: Box, axis: int) -> int:
    """Planes of the common grid that are decided together."""
    plane = math.prod(column.shape) // column.shape[axis]
    return max(_CHUNK_BYTES // (4 * plane * max(grid.source.outputs for grid in grids)), 1)


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


@dataclass(frozen=True)
class _Axis:
    """How one axis of `old` voxels becomes one of `new`.

    Attributes:
        old, new: voxels.
        nearest: take the nearest voxel; else interpolate linearly.
    """

    old: int
    new: int
    nearest: bool

    @cached_property
    def _matrix(self) -> Values | None:
        return None if self.nearest or self.old == self.new else axis_matrix(self.old, self.new, 1)

    @cached_property
    def _bounds(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The first and the last old voxel that each new one needs."""
        if self._matrix is None:
            voxels = nearest_voxels(self.old, self.new)
            return voxels, voxels
        needed = self._matrix != 0
        return needed.argmax(axis=1), self.old - 1 - needed[:, ::-1].argmax(axis=1)

    def support(self, first: int, last: int) -> tuple[int, int]:
        """The old voxels, from and to before, that the new ones from `first` to before `last` need."""
        low, high = self._bounds
        return int(low[first:last].min()), int(high[first:last].max()) + 1

    def apply(self, values: Values, axis: int, origin: int, first: int, last: int) -> Values:
        """New voxels `first` to before `last` of values that begin at the old voxel `origin`."""
        if self.old == self.new:
            return values[(slice(None),) * (axis + 1) + (slice(first - origin, last - origin),)]
        if self._matrix is None:
            return values.take(self._bounds[0][first:last] - origin, axis=axis + 1)
        return along_axis(self._matrix[first:last, origin : origin + values.shape[axis + 1]], values, axis)


@dataclass(frozen=True)
class Regridding:
    """A source and the grid to which it is interpolated; both cover the same extent."""

    source: Source
    axes: tuple[_Axis, ...]

    @staticmethod
    def of(source: Source, shape: Sequence[int], apart: int | None = None) -> Regridding:
        """To a grid of `shape` (z, y, x), nearest along the axis that is apart."""
        return Regridding(
            source,
            tuple(
                _Axis(old, new, axis == apart) for axis, (old, new) in enumerate(zip(source.shape, shape, strict=True))
            ),
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """(z, y, x) of the new grid."""
        return tuple(axis.new for axis in self.axes)

    def region(self, box: Box) -> Box:
        """The box of the source that a box of the new grid needs."""
        supports = [axis.support(first, last) for axis, first, last in zip(self.axes, box.start, box.stop, strict=True)]
        return Box(tuple(first for first, _ in supports), tuple(last for _, last in supports))

    def stream(self, column: Box, axis: int) -> _Stream:
        """The outputs within a column of the new grid, to be read along an axis."""
        return _Stream(self, column, axis)


class _Stream:
    """Reads a column of the new grid in order; holds those planes of the source that are still needed."""

    def __init__(self, grid: Regridding, column: Box, axis: int) -> None:
        self.grid, self.column, self.axis = grid, column, axis
        self.origin = list(grid.region(column).start)
        ratio = grid.axes[axis].old / grid.axes[axis].new
        planes = max(round(chunk_planes([grid], column, axis) * ratio), 1)
        self._slabs = grid.source.slabs(grid.region(column), axis, planes)
        self._held: Values | None = None

    def read(self, first: int, last: int) -> Values:
        """(output, z, y, x) of the planes `first` to before `last` of the new grid; never further back than before."""
        low, high = self.grid.axes[self.axis].support(first, last)
        values = self._fetch(low, high)
        box = along(self.column, self.axis, first, last)
        axes = self.grid.axes
        # The axis that shrinks most (or grows least) goes first: fewer voxels for the others.
        for axis in sorted(range(3), key=lambda axis: axes[axis].new / axes[axis].old):
            values = axes[axis].apply(values, axis, self.origin[axis], box.start[axis], box.stop[axis])
        return values

    def _fetch(self, low: int, high: int) -> Values:
        """The planes of the source from `low` (or a little before) to `high` (or a little further)."""
        pieces: list[Values] = []
        end = self.origin[self.axis]
        if self._held is not None:
            end += self._held.shape[self.axis + 1]
            kept = min(low, end) - self.origin[self.axis]
            self._held = self._held[(slice(None),) * (self.axis + 1) + (slice(kept, None),)]
            self.origin[self.axis] += kept
            if self._held.shape[self.axis + 1]:
                # What lies in a slab is only valid until the next one is made.
                pieces.append(self._held.copy() if end < high else self._held)
        while end < high:
            slab = next(self._slabs)
            end += slab.shape[self.axis + 1]
            pieces.append(slab.copy() if end < high else slab)
        self._held = pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=self.axis + 1)
        return self._held

"""Outputs on a prepared grid become outputs on another, plane by plane, in any part of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from voxfit.imaging.geometry import Box
from voxfit.preprocessing.resampling import axis_matrix, nearest_voxels

_CHUNK_BYTES = 2**22
"""Outputs on the image's grid are computed in pieces of this size, which a processor's cache holds in good part."""

Values = NDArray[np.float32]


class LazyOutput(Protocol):
    """The output of one configuration for a case on the prepared grid, made slab by slab."""

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
    """An output whose (output, z, y, x) values are all in memory."""

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
        """See `LazyOutput`."""
        for first in range(region.start[axis], region.stop[axis], planes):
            last = min(first + planes, region.stop[axis])
            yield self.values[(slice(None), *along(region, axis, first, last).to_slices())]

    def slab_bytes(self, region: Box, axis: int) -> int:
        """0: the values are in memory already."""
        return 0


def along(box: Box, axis: int, first: int, last: int) -> Box:
    """The part of a box from plane `first` to before `last` of an axis."""
    return Box(
        (*box.start[:axis], first, *box.start[axis + 1 :]),
        (*box.stop[:axis], last, *box.stop[axis + 1 :]),
    )


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
    def _neighbours(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The first and the last old voxel that each new one needs."""
        if self.nearest or self.old == self.new:
            voxels = nearest_voxels(self.old, self.new)
            return voxels, voxels
        needed = axis_matrix(self.old, self.new, 1) != 0
        return needed.argmax(axis=1), self.old - 1 - needed[:, ::-1].argmax(axis=1)

    @cached_property
    def _weights(self) -> tuple[Values, Values]:
        """The weights of these two in each new voxel."""
        matrix, (lower, upper) = axis_matrix(self.old, self.new, 1), self._neighbours
        rows = np.arange(self.new)
        return matrix[rows, lower], np.where(lower < upper, matrix[rows, upper], 0).astype(np.float32)

    def support(self, first: int, last: int) -> tuple[int, int]:
        """The old voxels, from and to before, that the new ones from `first` to before `last` need."""
        low, high = self._neighbours
        return int(low[first:last].min()), int(high[first:last].max()) + 1

    def apply(self, values: Values, axis: int, origin: int, first: int, last: int) -> Values:
        """New voxels `first` to before `last` of values that begin at the old voxel `origin`."""
        if self.old == self.new:
            return values[(slice(None),) * (axis + 1) + (slice(first - origin, last - origin),)]
        lower, upper = (voxels[first:last] - origin for voxels in self._neighbours)
        result = values.take(lower, axis=axis + 1)
        if self.nearest:
            return result
        # Voxel by voxel, not as a product with a matrix: there the rounding of a voxel depends on how many others are
        # computed with it, and labels would depend on the memory limit.
        shape = (-1, *(1,) * (2 - axis))
        weights = [weight[first:last].reshape(shape) for weight in self._weights]
        following = values.take(upper, axis=axis + 1)
        result *= weights[0]
        following *= weights[1]
        result += following
        return result


@dataclass(frozen=True)
class Regridding:
    """An output and the grid to which it is interpolated; both cover the same extent."""

    source: LazyOutput
    axes: tuple[_Axis, ...]

    @staticmethod
    def of(source: LazyOutput, shape: Sequence[int], separate_axis: int | None = None) -> Regridding:
        """To a grid of `shape` (z, y, x), nearest along the axis that is resampled separately."""
        return Regridding(
            source,
            tuple(
                _Axis(old, new, axis == separate_axis)
                for axis, (old, new) in enumerate(zip(source.shape, shape, strict=True))
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


def chunk_planes(grids: Sequence[Regridding], column: Box, axis: int) -> int:
    """Planes of the common grid that are decided together."""
    plane = math.prod(column.shape) // column.shape[axis]
    return max(_CHUNK_BYTES // (4 * plane * max(grid.source.outputs for grid in grids)), 1)

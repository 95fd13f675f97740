"""The sums of tiles, over no more of an image than is in work."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxfit.imaging.geometry import Box
from voxfit.inference.arrays import Arrays
from voxfit.inference.tiling import Tile


class SlidingAccumulator:
    """Sums over a window of planes that moves along an axis: plane p lies at p modulo its thickness.

    Args:
        region: what is summed.
        axis: along which the window moves.
        thickness: planes of the window.
        outputs: channels.
        shares: for each axis and tile, see `normalized_tile_weights`.
        arrays: of the networks; the sums are where these say.
    """

    def __init__(
        self,
        region: Box,
        axis: int,
        thickness: int,
        outputs: int,
        shares: Sequence[Sequence[NDArray[np.float32]]],
        arrays: Arrays,
    ) -> None:
        self.region, self.axis, self.thickness = region, axis, thickness
        shape = [outputs, *region.shape]
        shape[axis + 1] = thickness
        self.arrays = arrays.for_sums(4 * math.prod(shape))
        self.shares = [[self.arrays.here(share) for share in one] for one in shares]
        self.total = self.arrays.zeros(shape)
        self.done = region.start[axis]

    def add(self, tile: Tile, part: Any) -> None:
        """Add the outputs (output, *box) of a tile, times its shares, as far as it lies in the region."""
        box = tile.box
        low = [max(start, first) for start, first in zip(box.start, self.region.start, strict=True)]
        high = [min(stop, last) for stop, last in zip(box.stop, self.region.stop, strict=True)]
        for first, last in self._pieces(low[self.axis], high[self.axis]):
            low[self.axis], high[self.axis] = first, last
            source = tuple(
                slice(start - first, stop - first) for start, stop, first in zip(low, high, box.start, strict=True)
            )
            z, y, x = (one[number][piece] for one, number, piece in zip(self.shares, tile.index, source, strict=True))
            weights = z[:, None, None] * (y[:, None] * x)
            total = self.total[(slice(None), *self._at(low, high))]
            self.arrays.add_product(total, part[(slice(None), *source)], weights)

    def finished(self, end: int, planes: int) -> Iterator[NDArray[np.float32]]:
        """The averages of all planes before `end` that were not handed out yet."""
        low, high = list(self.region.start), list(self.region.stop)
        for first, last in self._pieces(self.done, end):
            for start in range(first, last, planes):
                low[self.axis], high[self.axis] = start, min(start + planes, last)
                total = self.total[(slice(None), *self._at(low, high))]
                yield self.arrays.to_numpy(total)
                total[...] = 0
        self.done = max(end, self.done)

    def _pieces(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Runs of planes that lie in one piece."""
        while first < last:
            stop = min(last, first - first % self.thickness + self.thickness)
            yield first, stop
            first = stop

    def _at(self, low: Sequence[int], high: Sequence[int]) -> tuple[slice, ...]:
        """Where a box of the region lies in memory; along the axis it does not cross the end."""
        places = []
        for axis, (start, stop, first) in enumerate(zip(low, high, self.region.start, strict=True)):
            if axis == self.axis:
                place = start % self.thickness
                places.append(slice(place, place + stop - start))
            else:
                places.append(slice(start - first, stop - first))
        return tuple(places)

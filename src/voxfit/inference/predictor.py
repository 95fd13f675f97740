"""Sliding-window prediction: tiles, mirroring and folds, averaged as probabilities (method.md [I1]-[I3])."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from voxfit.imaging.geometry import Box, cut
from voxfit.inference.accumulation import SlidingAccumulator
from voxfit.inference.arrays import Arrays
from voxfit.inference.tiling import Tile, normalized_tile_weights, tiles
from voxfit.planning.architecture import activation_bytes
from voxfit.planning.plan import ConfigurationName, Plan

Network = Callable[[Any], Any]
"""Takes (batch, channel, *patch), returns (batch, output, *patch): what is averaged, probabilities or logits. The
arrays are those of one library at one place. What it takes may be a view into an image; what it returns is valid until
its next pass."""


@dataclass(frozen=True)
class NetworkInput:
    """What a network sees of a case.

    Attributes:
        image: (channel, z, y, x), prepared.
        previous: (z, y, x) class indices that the previous stage of a cascade found, if there is one.
        classes: foreground classes of `previous`; each becomes a channel of zeros and ones behind the image's.
    """

    image: NDArray[np.float32]
    previous: NDArray[np.int16] | None = None
    classes: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """(z, y, x)."""
        return self.image.shape[1:]

    def tile(self, box: Box) -> NDArray[np.float32]:
        """(channel, *box), zeros beyond the image; a view into the image where that is all there is."""
        image = cut(self.image, box, copy=False)
        if self.previous is None:
            return image
        previous = cut(self.previous, box, copy=False)
        one_hot = [(previous == index)[None] for index in range(1, self.classes + 1)]
        return np.concatenate([image, *(mask.astype(np.float32) for mask in one_hot)])


class Predictor:
    """Predicts prepared images with the networks of one configuration.

    Args:
        networks: one for each fold.
        patch_box: tile as (z, y, x) voxels; thickness 1 along `slice_axis` for 2D networks.
        slice_axis: the axis that 2D networks do not see; None for 3D.
        outputs: channels of a network's output.
        arrays: that the networks take and return.
        mirror_axes: average over all variants mirrored along these axes of (z, y, x) [I2].
        gaussian_center: see `voxfit.inference.tiling.gaussian_profile`.
        also_without_tta: put the averages without mirroring behind those with it; this doubles the outputs and costs
            no pass.

    Attributes:
        per_batch: tiles (or mirrored variants) of one pass.
        pass_bytes: what a pass takes, about; 0 where it was not limited.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        patch_box: Sequence[int],
        *,
        slice_axis: int | None,
        outputs: int,
        arrays: Arrays,
        mirror_axes: Sequence[int] = (0, 1, 2),
        gaussian_center: Literal["centred", "shifted"] = "centred",
        also_without_tta: bool = False,
    ) -> None:
        self.networks = tuple(networks)
        self.patch_box = tuple(patch_box)
        self.slice_axis = slice_axis
        self.outputs = outputs * (1 + also_without_tta)
        self.arrays = arrays
        self.also_without_tta = also_without_tta
        self.per_batch = max(arrays.pass_voxels // math.prod(self.patch_box), 1)
        self.pass_bytes = 0
        chosen = [range(2) if axis in mirror_axes and axis != slice_axis else range(1) for axis in range(3)]
        # Axes of a (batch, channel, z, y, x) array that each variant flips; the first variant is the image as it is.
        self.flips = [
            [axis + 2 for axis, flipped in enumerate(variant) if flipped] for variant in itertools.product(*chosen)
        ]
        self.gaussian_center: Literal["centred", "shifted"] = gaussian_center

    def limit_pass(self, tile_bytes: int, memory: int | None) -> None:
        """Keep the tiles of one pass to a quarter of a memory limit.

        Args:
            tile_bytes: that the networks take for each tile, beside their outputs.
            memory: the limit, bytes; None for none.
        """
        # Logits, what is made of them, and their mean.
        tile_bytes += 3 * 4 * self.outputs * math.prod(self.patch_box)
        if memory is not None:
            self.per_batch = max(min(self.per_batch, memory // 4 // tile_bytes), 1)
        self.pass_bytes = self.per_batch * tile_bytes

    def predict(self, case: NetworkInput | NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities (or logits) of a whole prepared image.

        Args:
            case: the image, (channel, z, y, x), or all that the network sees.

        Returns:
            (output, z, y, x).
        """
        return self.source(case).whole()

    def source(self, case: NetworkInput | NDArray[np.float32]) -> Prediction:
        """The same, slab by slab, as they are asked for."""
        return Prediction(self, case if isinstance(case, NetworkInput) else NetworkInput(case))

    def average(self, batch: Any) -> Any:
        """Mean over folds and mirrored variants of (batch, channel, z, y, x) tiles.

        Variants share passes while these stay small: a pass over a single small tile leaves cores idle.
        """
        if len(self.flips) == len(self.networks) == 1 and not self.also_without_tta:
            return self._run(self.networks[0], batch)
        kinds, arrays, count = 1 + self.also_without_tta, self.arrays, len(batch)
        total = arrays.zeros((kinds, count, self.outputs // kinds, *self.patch_box))
        together = max(self.per_batch // count, 1)
        for first in range(0, len(self.flips), together):
            flips = self.flips[first : first + together]
            variants = arrays.join([arrays.flip(batch, flip) for flip in flips], 0)
            for network in self.networks:
                outputs = self._run(network, variants)
                for number, flip in enumerate(flips):
                    part = outputs[number * count : (number + 1) * count]
                    total[0] += arrays.flip(part, flip)
                    if self.also_without_tta and not flip:
                        total[1] += part
        total /= len(self.networks)
        total[0] /= len(self.flips)
        return arrays.join(list(total), 1)

    def _run(self, network: Network, batch: Any) -> Any:
        if self.slice_axis is None:
            return network(batch)
        outputs = network(batch.squeeze(self.slice_axis + 2))
        return outputs[(slice(None),) * (self.slice_axis + 2) + (None,)]


def predictor_of(
    plan: Plan,
    name: ConfigurationName,
    networks: Sequence[Network],
    arrays: Arrays,
    *,
    mirror: bool = True,
    also_without_tta: bool = False,
    memory: int | None = None,
) -> Predictor:
    """The predictor of one configuration.

    Args:
        plan: patch, outputs, and how predictions are averaged.
        name: of the configuration.
        networks: one for each fold.
        arrays: that the networks take.
        mirror: test-time mirroring.
        also_without_tta: see `Predictor`.
        memory: bytes; passes are kept small enough that they take no more than a quarter of it.
    """
    configuration, inference = plan.configurations[name], plan.inference
    axes = (0, 1, 2) if inference.mirror_axes is None else inference.mirror_axes
    predictor = Predictor(
        networks,
        configuration.patch_box,
        slice_axis=configuration.slice_axis,
        outputs=plan.labels.outputs,
        arrays=arrays,
        mirror_axes=axes if mirror else (),
        gaussian_center=inference.gaussian_center,
        also_without_tta=also_without_tta,
    )
    predictor.limit_pass(activation_bytes(plan.topology(name), configuration.patch_size), memory)
    return predictor


class Prediction:
    """The outputs of a predictor for one case, made slab by slab (a `LazyOutput`).

    Tiles are taken in rows along one axis. What no later row touches is handed out; its memory is used again. So the
    memory is that of a slab as thick as a tile, however long the image is.
    """

    def __init__(self, predictor: Predictor, case: NetworkInput) -> None:
        self.predictor, self.case = predictor, case
        self.outputs, self.shape = predictor.outputs, case.shape
        # Tiles larger than the image reach beyond it on both sides.
        self._tiled = [max(size, edge) for size, edge in zip(self.shape, predictor.patch_box, strict=True)]

    def slabs(self, region: Box, axis: int, planes: int) -> Iterator[NDArray[np.float32]]:
        """All of `region`, in slabs (output, z, y, x) of at most `planes` planes along `axis`.

        A slab is valid until the next one is asked for.
        """
        rows = self._rows(region, axis)
        ring = self._ring(region, axis, self._thickness(rows, region, axis))
        for number, row in enumerate(rows):
            self._add(row, ring)
            after = rows[number + 1][0].box.start[axis] if number + 1 < len(rows) else region.stop[axis]
            yield from ring.finished(after, planes)

    def whole(self) -> NDArray[np.float32]:
        """All of it, (output, z, y, x)."""
        region = Box.whole(self.shape)
        ring = self._ring(region, 0, self.shape[0])
        for row in self._rows(region, 0):
            self._add(row, ring)
        return ring.arrays.to_numpy(ring.total)

    def slab_bytes(self, region: Box, axis: int) -> int:
        """Memory of the sums for a region."""
        thickness = self._thickness(self._rows(region, axis), region, axis)
        plane = math.prod(region.shape) // region.shape[axis]
        return 4 * self.outputs * thickness * plane

    def _ring(self, region: Box, axis: int, thickness: int) -> SlidingAccumulator:
        sizes = zip(self._tiled, self.predictor.patch_box, strict=True)
        shares = [normalized_tile_weights(size, edge, self.predictor.gaussian_center) for size, edge in sizes]
        return SlidingAccumulator(region, axis, thickness, self.outputs, shares, self.predictor.arrays)

    def _rows(self, region: Box, axis: int) -> list[list[Tile]]:
        """The tiles that a region needs, in rows of (at least) one batch: each begins further along the axis."""
        # As nnU-Net v2 does it, so that imported models agree: what does not halve goes behind the image.
        before = [-((full - size) // 2) for full, size in zip(self._tiled, self.shape, strict=True)]
        rows: dict[int, list[Tile]] = {}
        for tile in tiles(self._tiled, self.predictor.patch_box):
            box = tile.box.moved(before)
            if all(low < stop and start < high for low, high, start, stop in _ends(box, region)):
                rows.setdefault(box.start[axis], []).append(Tile(tile.index, box))
        groups: list[list[Tile]] = []
        for _, row in sorted(rows.items()):
            if groups and len(groups[-1]) + len(row) <= self.predictor.per_batch:
                groups[-1].extend(row)
            else:
                groups.append(row)
        return groups

    @staticmethod
    def _thickness(rows: Sequence[Sequence[Tile]], region: Box, axis: int) -> int:
        """Planes that are in work at once."""
        return max(
            min(row[-1].box.stop[axis], region.stop[axis]) - max(row[0].box.start[axis], region.start[axis])
            for row in rows
        )

    def _add(self, row: Sequence[Tile], ring: SlidingAccumulator) -> None:
        predictor = self.predictor
        for first in range(0, len(row), predictor.per_batch):
            some = row[first : first + predictor.per_batch]
            parts = [self.case.tile(tile.box) for tile in some]
            batch = parts[0][None] if len(parts) == 1 else np.stack(parts)
            averages = ring.arrays.here(predictor.average(predictor.arrays.here(batch)))
            for tile, part in zip(some, averages, strict=True):
                ring.add(tile, part)


def _ends(box: Box, region: Box) -> Iterator[tuple[int, int, int, int]]:
    return zip(box.start, box.stop, region.start, region.stop, strict=True)

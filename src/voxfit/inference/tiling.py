"""Overlapping tiles and their weights (method.md [I1])."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from voxfit.imaging.geometry import Box


@dataclass(frozen=True)
class Tile:
    """One of the tiles of an image.

    Attributes:
        index: which one it is along each axis.
        box: its voxels (z, y, x).
    """

    index: tuple[int, ...]
    box: Box


def tile_starts(size: int, edge: int) -> list[int]:
    """First voxels of the tiles along one axis: evenly spaced, neighbours overlap by half a tile, up to rounding.

    They are those of nnU-Net v2, whose arithmetic decides between voxels.

    Args:
        size: of the image, at least `edge`.
        edge: of the tile; tiles one voxel thick (slices) do not overlap.
    """
    if edge == 1:
        return list(range(size))
    count = math.ceil((size - edge) / (edge / 2)) + 1
    step = (size - edge) / max(count - 1, 1)
    return [round(step * index) for index in range(count)]


def tiles(shape: Sequence[int], patch: Sequence[int]) -> list[Tile]:
    """All tiles of an image (z, y, x), first axis slowest."""
    starts = [tile_starts(size, edge) for size, edge in zip(shape, patch, strict=True)]
    return [
        Tile(index, Box(start, tuple(first + edge for first, edge in zip(start, patch, strict=True))))
        for index, start in zip(
            itertools.product(*(range(len(axis)) for axis in starts)), itertools.product(*starts), strict=True
        )
    ]


def gaussian_profile(edge: int, kind: Literal["centred", "shifted"] = "centred") -> NDArray[np.float64]:
    """The weight of each voxel of a tile along one axis: a Gaussian of sigma = edge / 8, 1 at its largest.

    The weight of a voxel is the product of those of its axes; no axis has less than 3e-4.

    Args:
        edge: of the tile.
        kind: "centred" about the centre of the tile; "shifted" about the voxel `edge // 2`, half a voxel behind the
            centre of an even edge (nnU-Net v2).
    """
    offsets = np.arange(edge) - (edge // 2 if kind == "shifted" else (edge - 1) / 2)
    profile = np.exp(-0.5 * (offsets / (edge / 8)) ** 2)
    return np.asarray(profile / profile.max(), np.float64)


def normalized_tile_weights(
    size: int, edge: int, kind: Literal["centred", "shifted"] = "centred"
) -> list[NDArray[np.float32]]:
    """For each tile of an axis, the share of each of its voxels in the mean over all tiles.

    Tiles are a product of axes, and so are their weights. The sum of the weights at a voxel is then the product of the
    sums along the axes, and the mean over tiles is the sum of their outputs, each times its three shares: nothing is
    left to be divided in the end.

    Args:
        size: of the image, at least `edge`.
        edge: of the tile.
        kind: see `gaussian_profile`.
    """
    profile, starts = gaussian_profile(edge, kind), tile_starts(size, edge)
    sums = np.zeros(size)
    for start in starts:
        sums[start : start + edge] += profile
    return [(profile / sums[start : start + edge]).astype(np.float32) for start in starts]

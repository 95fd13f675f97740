"""Overlapping tiles and their weights (method.md [I1])."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from voxfit.imaging.geometry import Box


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


def tiles(shape: Sequence[int], patch: Sequence[int]) -> list[Box]:
    """All tiles of an image (z, y, x), first axis slowest."""
    starts = [tile_starts(size, edge) for size, edge in zip(shape, patch, strict=True)]
    return [
        Box(start, tuple(first + edge for first, edge in zip(start, patch, strict=True)))
        for start in itertools.product(*starts)
    ]


def gaussian_weights(patch: Sequence[int], kind: Literal["centred", "shifted"] = "centred") -> NDArray[np.float32]:
    """The weight of each voxel of a tile: a Gaussian of sigma = edge / 8, 1 at its peak.

    Args:
        patch: edges of the tile, (z, y, x).
        kind: "centred" about the centre of the tile. The smallest weights are raised to a thousandth, so that image
            corners, which only one tile covers, are never divided by something that rounds to nothing. "shifted" about
            the voxel `edge // 2`, half a voxel behind the centre of an even edge, and nothing is raised (nnU-Net v2).
    """
    shifted = kind == "shifted"
    weights = np.ones((1,) * len(patch))
    for axis, edge in enumerate(patch):
        offsets = np.arange(edge) - (edge // 2 if shifted else (edge - 1) / 2)
        profile = np.exp(-0.5 * (offsets / (edge / 8)) ** 2) if edge > 1 else np.ones(1)
        weights = weights * (profile / profile.max()).reshape(
            [-1 if other == axis else 1 for other in range(len(patch))]
        )
    # No voxel is more than four sigma away along an axis: 4e-11 is the least, which nothing needs to be raised to.
    return (weights if shifted else np.maximum(weights, 1e-3)).astype(np.float32)

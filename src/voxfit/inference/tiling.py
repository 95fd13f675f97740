"""Overlapping tiles and their weights (method.md [I1])."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from voxfit.imaging.geometry import Box


def tile_starts(size: int, edge: int) -> list[int]:
    """First voxels of the tiles along one axis: evenly spaced, neighbours overlap by half a tile or more.

    Args:
        size: of the image, at least `edge`.
        edge: of the tile; tiles one voxel thick (slices) do not overlap.
    """
    step = max(edge // 2, 1)
    count = math.ceil((size - edge) / step) + 1
    return [round(index * (size - edge) / max(count - 1, 1)) for index in range(count)]


def tiles(shape: Sequence[int], patch: Sequence[int]) -> list[Box]:
    """All tiles of an image (z, y, x), first axis slowest."""
    starts = [tile_starts(size, edge) for size, edge in zip(shape, patch, strict=True)]
    return [
        Box(start, tuple(first + edge for first, edge in zip(start, patch, strict=True)))
        for start in itertools.product(*starts)
    ]


def gaussian_weights(patch: Sequence[int]) -> NDArray[np.float32]:
    """The weight of each voxel of a tile: a Gaussian of sigma = edge / 8 about its centre, 1 at the peak.

    The smallest weights are raised to a thousandth, so that image corners, which only one tile covers, are never
    divided by something that rounds to nothing.
    """
    weights = np.ones((1,) * len(patch))
    for axis, edge in enumerate(patch):
        offsets = np.arange(edge) - (edge - 1) / 2
        profile = np.exp(-0.5 * (offsets / (edge / 8)) ** 2) if edge > 1 else np.ones(1)
        weights = weights * (profile / profile.max()).reshape(
            [-1 if other == axis else 1 for other in range(len(patch))]
        )
    return np.maximum(weights, 1e-3).astype(np.float32)

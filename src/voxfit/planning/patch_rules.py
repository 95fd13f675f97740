"""Rules [A1]-[A5] of method.md: from shapes and spacings to patch, batch and poolings. Pure functions on numbers.

All seven rows of Table 1 of the paper come out of these exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from voxfit.planning.plan import Limits


@dataclass(frozen=True)
class PatchRule:
    """What the rules say for one configuration."""

    patch_size: tuple[int, ...]
    batch_size: int
    num_pool: tuple[int, ...]


def count_poolings(size: float, most: int, min_edge: int) -> int:
    """How often an axis is halved: while it is at least `min_edge` long, `most` times at most (method.md [A1])."""
    poolings = 0
    while size >= min_edge and poolings < most:
        size /= 2
        poolings += 1
    return poolings


def slice_axis(spacing_mm: Sequence[float]) -> int:
    """The axis that 2D slices are stacked along: that of largest spacing, the first on ties (method.md [A2])."""
    return max(range(len(spacing_mm)), key=lambda axis: (spacing_mm[axis], -axis))


def plane_rule(median_plane: Sequence[int], median_voxels: int, num_cases: int, limits: Limits) -> PatchRule:
    """Patch, batch and poolings of the 2D network (method.md [A2], [A4]).

    Args:
        median_plane: the median shape without the slice axis.
        median_voxels: voxels of the whole median case.
        num_cases: training cases.
        limits: constants.
    """

    def pools(size: float) -> int:
        return count_poolings(size, limits.max_pool_2d, limits.min_edge)

    padded = [_up(size, 2 ** pools(size)) for size in median_plane]
    num_pool = tuple(pools(size) for size in padded)
    patch = tuple(_up(size, 2**count) for size, count in zip(padded, num_pool, strict=True))
    batch = limits.plane_voxels // math.prod(patch)
    return PatchRule(patch, _limit_batch(batch, patch, median_voxels, num_cases, limits), num_pool)


def volume_rule(median_shape: Sequence[int], spacing_mm: Sequence[float], num_cases: int, limits: Limits) -> PatchRule:
    """Patch, batch and poolings of a 3D network (method.md [A3], [A4]).

    The patch has the aspect ratio of the median case's physical extent; Table 1 says so, against the paper's text.
    """

    def pools(size: float) -> int:
        return count_poolings(size, limits.max_pool_3d, limits.min_edge)

    extent = [size * spacing for size, spacing in zip(median_shape, spacing_mm, strict=True)]
    scale = (limits.voxel_budget / math.prod(extent)) ** (1 / len(extent))
    target = [min(length * scale, size) for length, size in zip(extent, median_shape, strict=True)]
    steps = [2 ** pools(size) for size in target]
    patch = [_up(size, step) for size, step in zip(target, steps, strict=True)]
    while math.prod(patch) > limits.voxel_budget:
        shrinkable = [axis for axis in range(len(patch)) if patch[axis] > steps[axis]]
        if not shrinkable:
            break
        axis = max(shrinkable, key=lambda axis: (patch[axis] - target[axis], axis))
        patch[axis] -= steps[axis]
    num_pool = tuple(pools(size) for size in patch)
    final = tuple(_up(size, 2**count) for size, count in zip(patch, num_pool, strict=True))
    batch = limits.voxel_budget * 2 // math.prod(final)
    return PatchRule(final, _limit_batch(batch, final, math.prod(median_shape), num_cases, limits), num_pool)


def needs_cascade(median_shape: Sequence[int], limits: Limits) -> bool:
    """Whether a median case is so much larger than a patch that a coarse first stage is offered (method.md [A5])."""
    return math.prod(median_shape) > limits.cascade_factor * limits.voxel_budget


def coarser_spacing(spacing_mm: Sequence[float]) -> tuple[float, ...]:
    """One step towards low resolution: the fine axes catch up first, then all axes double (method.md [A5])."""
    largest = max(spacing_mm)
    fine = [spacing <= largest / 2 for spacing in spacing_mm]
    if not any(fine):
        fine = [True] * len(fine)
    return tuple(spacing * 2 if doubles else spacing for spacing, doubles in zip(spacing_mm, fine, strict=True))


def _limit_batch(batch: int, patch: Sequence[int], median_voxels: int, num_cases: int, limits: Limits) -> int:
    """At most 5 % of the dataset's voxels in a batch, but never fewer than two samples (method.md [A4])."""
    share = round(limits.dataset_fraction * median_voxels * num_cases / math.prod(patch))
    return max(min(batch, share), limits.min_batch_size)


def _up(size: float, step: int) -> int:
    """The smallest multiple of `step`, at least one, that is not below `size`."""
    return max(math.ceil(round(size / step, 6)), 1) * step

"""What segmenting an image takes of the memory, known from its header and the networks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from voxfit.core.errors import MemoryLimitError
from voxfit.core.formatting import format_bytes
from voxfit.core.memory import used_bytes
from voxfit.imaging.geometry import Geometry, Turn
from voxfit.inference.predictor import Predictor
from voxfit.planning.fingerprint import resampled_shape
from voxfit.planning.plan import ConfigurationName, Plan
from voxfit.preprocessing.output_resampling import Regridding
from voxfit.preprocessing.reverting import column_bytes, columns, stream_axis


def estimate_memory(
    plan: Plan,
    stages: Sequence[Mapping[ConfigurationName, Predictor]],
    geometry: Geometry,
    limit: int | None,
    *,
    is_read: bool,
) -> int:
    """Memory, in bytes, that this process will hold at most while it segments an image, about.

    Args:
        plan: the model's.
        stages: the networks whose outputs are held at the same time, stage by stage.
        geometry: of the image.
        limit: bytes that the process may use; None for no limit.
        is_read: the image is already in memory, prepared.

    Raises:
        MemoryLimitError: the limit cannot be kept.
    """
    channels = len(plan.channel_names)
    turn = Turn.between(geometry.orientation, plan.orientation)
    shape, spacing_mm = geometry.shape, geometry.spacing_mm
    if turn is not None:
        shape, spacing_mm = turn.order(shape), turn.order(spacing_mm)
    predictors = {name: predictor for stage in stages for name, predictor in stage.items()}
    shapes = {name: resampled_shape(shape, spacing_mm, plan.grid(name).spacing_of(spacing_mm)) for name in predictors}
    base = used_bytes() + bytes_beside_outputs(plan, predictors, geometry)
    if not is_read:
        base += 8 * channels * (math.prod(geometry.shape) + sum(map(math.prod, set(shapes.values()))))
    left = None if limit is None else limit - base
    if left is not None and left < 0:
        raise MemoryLimitError(
            f"The program, {'' if is_read else 'this image '}and one pass of the networks take {format_bytes(base)}."
        )
    needed = 0
    for stage in stages:
        grids = [
            # Nothing is held for the image: all of its voxels are one.
            Regridding.of(predictor.source(np.broadcast_to(np.float32(0), (channels, *shapes[name]))), shape)
            for name, predictor in stage.items()
        ]
        if grids:
            axis = stream_axis(grids)
            needed = max(needed, column_bytes(grids, columns(grids, axis, left)[0], axis))
    return base + needed


def bytes_beside_outputs(plan: Plan, predictors: Mapping[ConfigurationName, Predictor], geometry: Geometry) -> int:
    """What is held beside images and outputs: label maps of the crop, of the image, and their values; a pass."""
    maps = 3 * math.prod(geometry.shape) * (1 if plan.labels.count <= 256 else 2)
    return maps + max(predictor.pass_bytes for predictor in predictors.values())

"""Whether the disk has room for a run, before the work begins."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path

from voxfit.core.errors import WorkspaceError
from voxfit.planning.architecture import count_weights
from voxfit.planning.fingerprint import Fingerprint, resampled_shape
from voxfit.planning.grid import Grid
from voxfit.planning.plan import ConfigurationName, Plan

_CHECKPOINTS = 3
"""Two are kept, and the third is written beside them."""
_STATES = 4
"""Numbers of a checkpoint for each parameter, at most: the weight, two of the optimiser, an average of weights."""
_SPARE = 64 * 2**20
"""Records, histories, the report."""


def check_space(folder: Path, fingerprint: Fingerprint, plan: Plan, folds: Mapping[ConfigurationName, int]) -> None:
    """Compare what a run is going to write with the room on its disk; what is there already counts as done.

    Args:
        folder: of the run.
        fingerprint: the cases.
        plan: what is made of them.
        folds: how many are trained of each configuration.

    Raises:
        WorkspaceError: there is too little, with the numbers.
    """
    wanted = needed_bytes(fingerprint, plan, folds)
    free = shutil.disk_usage(folder).free
    if sum(wanted.values()) <= free:  # with many cases, looking at all files takes much longer
        return
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    missing = sum(wanted.values()) - there - free
    if missing > 0:
        parts = ", ".join(f"{size / 2**30:.1f} GiB {what}" for what, size in wanted.items())
        raise WorkspaceError(
            f"{folder}: this run needs about {sum(wanted.values()) / 2**30:.1f} GiB ({parts}), of which "
            f"{there / 2**30:.1f} GiB are there, but its disk has only {free / 2**30:.1f} GiB free. Free "
            f"{missing / 2**30:.1f} GiB, choose another disk with -o, or take fewer models (--configurations)."
        )


def needed_bytes(fingerprint: Fingerprint, plan: Plan, folds: Mapping[ConfigurationName, int]) -> dict[str, int]:
    """What a run writes, at most, by kind.

    Args:
        fingerprint: the cases.
        plan: what is made of them.
        folds: how many are trained of each configuration.
    """
    outputs, voxel_bytes = plan.labels.outputs, 4 * len(plan.channel_names) + 2
    grids = {plan.grid(name).digest(): plan.grid(name) for name in folds}
    weights = {name: 4 * count_weights(plan.topology(name)) for name in folds}
    return {
        "for prepared cases": voxel_bytes * sum(_voxels(fingerprint, grid) for grid in grids.values()),
        # Norms and biases are less than a hundredth of them. Each model is copied once more into the model folder.
        "for weights": 2 * sum(weights[name] * count for name, count in folds.items()),
        "for checkpoints": _CHECKPOINTS * _STATES * max(weights.values()),
        # Probabilities in half precision, kept for the ensembles.
        "for cross-validation": sum(2 * outputs * _voxels(fingerprint, plan.grid(name)) for name in folds),
        "for the rest": _SPARE,
    }


def _voxels(fingerprint: Fingerprint, grid: Grid) -> int:
    """Of all cases on a grid."""
    return sum(
        math.prod(resampled_shape(case.shape, case.spacing_mm, grid.spacing_of(case.spacing_mm)))
        for case in fingerprint.cases
    )

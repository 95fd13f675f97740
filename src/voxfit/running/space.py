"""Whether the disk has room for a run, before the work begins."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path

from voxfit.core.errors import WorkspaceError
from voxfit.planning.architecture import Topology
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
    weights = {name: 4 * _parameters(plan.topology(name)) for name in folds}
    return {
        "for prepared cases": voxel_bytes * sum(_voxels(fingerprint, grid) for grid in grids.values()),
        # Each model is copied once more into the model folder.
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


def _parameters(topology: Topology) -> int:
    """Weights of the convolutions of a network; norms and biases are less than a hundredth of them."""
    total, inputs, residual = 0, topology.in_channels, topology.block == "residual"
    for level, (width, kernel) in enumerate(zip(topology.features, topology.kernels, strict=True)):
        convolutions = topology.encoder_blocks[level] * (2 if residual else 1) + (residual and level == 0)
        total += math.prod(kernel) * width * (inputs + width * (convolutions - 1)) + residual * inputs * width
        if level:
            above, size = topology.features[level - 1], math.prod(topology.kernels[level - 1])
            blocks = topology.decoder_blocks[level - 1]
            total += above * (math.prod(topology.strides[level]) * width + size * above * (blocks + 1))
            total += above * topology.out_channels  # its own output, for deep supervision
        inputs = width
    return total

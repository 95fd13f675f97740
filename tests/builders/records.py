"""Records of planning and training: small ones, which a test changes by keyword."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from voxfit.imaging.labels import Label, Labels
from voxfit.learning.task import TrainingTask
from voxfit.planning.architecture import Topology, paper_stages
from voxfit.planning.fingerprint import CaseFingerprint, Fingerprint
from voxfit.planning.grid import ZScore
from voxfit.planning.plan import Configuration, ConfigurationName, Plan

ONE_CLASS = Labels(classes=(Label(name="a", value=1),))


def case_of(
    shape: tuple[int, ...],
    spacing_mm: tuple[float, ...] = (1.0, 1.0, 1.0),
    uncropped_shape: tuple[int, ...] | None = None,
) -> CaseFingerprint:
    """What is measured of one case; cropping takes nothing away unless `uncropped_shape` is given."""
    return CaseFingerprint(shape=shape, uncropped_shape=uncropped_shape or shape, spacing_mm=spacing_mm)


def fingerprint_of(
    cases: Sequence[CaseFingerprint], channels: Sequence[str] = ("MRI",), labels: Labels = ONE_CLASS, **more: Any
) -> Fingerprint:
    """The fingerprint of these cases; no channel's intensities are known unless they are given."""
    fields = {"dataset": "x", "intensities": (None,) * len(channels)}
    return Fingerprint(channel_names=tuple(channels), labels=labels, cases=tuple(cases), **(fields | more))


def configuration_of(patch: tuple[int, ...], batch: int, **changes: Any) -> Configuration:
    """A small configuration of 1 mm voxels, in 3D or 2D (slices along z) as the patch; one pooling an axis."""
    fields: dict[str, Any] = {
        "spacing": (1.0,) * len(patch),
        "median_shape": patch,
        "patch_size": patch,
        "batch_size": batch,
        "num_pool": (1,) * len(patch),
        "base_features": 4,
        "max_features": None,
        "dice": "sample",
        "augmentation": "3d" if len(patch) == 3 else "2d",
    }
    if len(patch) == 2:
        fields |= {"slice_axis": 0, "slice_spacing": 1.0}
    return Configuration(**(fields | changes))


def topology_of(num_pool: Sequence[int], width: int = 4, inputs: int = 1, outputs: int = 2) -> Topology:
    """The paper's network with so many poolings an axis; it gets as wide as it gets."""
    return Topology(in_channels=inputs, out_channels=outputs, **dict(paper_stages(tuple(num_pool), width, None)))


def plan_of(configurations: Mapping[ConfigurationName, Configuration], **changes: Any) -> Plan:
    """A plan of 200 MR images with one class."""
    fields = {"dataset": "x", "channel_names": ("MRI",), "labels": ONE_CLASS, "num_cases": 200}
    return Plan(**(fields | {"normalization": (ZScore(),), "configurations": dict(configurations)} | changes))


def task_of(configuration: Configuration, **changes: Any) -> TrainingTask:
    """The training of a network on the cases a and b, validated on c; the recipe must be given."""
    fields: dict[str, Any] = {
        "name": "test",
        "labels": ONE_CLASS,
        "topology": topology_of(configuration.num_pool, configuration.base_features),
        "configuration": configuration,
        "training_cases": ("a", "b"),
        "validation_cases": ("c",),
        "seed": 0,
    }
    return TrainingTask(**(fields | changes))

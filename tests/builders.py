"""What many tests need: fingerprints, configurations and stores, and the steps of `fit` by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from voxfit.core.progress import Listener
from voxfit.imaging.dataset import Dataset
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.labels import Label, Labels
from voxfit.imaging.volume import Volume
from voxfit.planning.fingerprint import CaseFingerprint, Fingerprint
from voxfit.planning.folds import Folds
from voxfit.planning.grid import Grid, Normalization, ZScore
from voxfit.planning.plan import Configuration, ConfigurationName, Plan
from voxfit.planning.settings import Settings
from voxfit.preprocessing.case import prepare as prepare_case
from voxfit.preprocessing.store import Store, write_case, write_manifest
from voxfit.running.experiment import Experiment
from voxfit.running.preparation import (
    Models,
    make_plan,
    measure,
    models_of,
    open_dataset,
    prepare,
    split_cases,
    without_skipped,
)
from voxfit.running.request import FitRequest
from voxfit.running.run_folder import RunFolder

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


def write_store(
    folder: Path,
    cases: Mapping[str, tuple[np.ndarray, np.ndarray]],
    num_classes: int,
    normalization: tuple[Normalization, ...] = (ZScore(),),
) -> Store:
    """Prepare cases at 1 mm and write them.

    Args:
        folder: An existing folder.
        cases: Each case's image (channel, z, y, x) and label map (z, y, x).
        num_classes: With the background.
        normalization: One rule a channel.
    """
    grid = Grid(spacing_mm=(1.0, 1.0, 1.0), normalization=normalization)
    for name, (image, label) in cases.items():
        volume = Volume(image, Geometry(label.shape, (1.0, 1.0, 1.0)))
        write_case(folder, name, prepare_case(volume, grid, label), num_classes)
    write_manifest(folder, list(cases), "x")
    return Store(folder)


@dataclass(frozen=True)
class Begun:
    """What `fit` has before it settles how to train."""

    request: FitRequest
    run: RunFolder
    dataset: Dataset
    files: str
    fingerprint: Fingerprint
    folds: Folds
    plan: Plan

    @property
    def models(self) -> Models:
        """What is to be trained."""
        return models_of(self.plan, self.folds, self.dataset, self.request)

    def store(self, name: ConfigurationName = "3d") -> Store:
        """The cases, prepared for a configuration."""
        return prepare(self.run, self.dataset, self.files, self.plan, [name], self.request.executor)[name]

    def identify(self, settings: Settings) -> Experiment:
        """What settings make of it."""
        return Experiment(settings, self.folds, self.files, self.fingerprint.classes)

    def settle(self) -> Experiment:
        """What `fit` would train."""
        from voxfit.running.fitting import settle

        deadline = monotonic() + (self.request.budget_seconds or 0)
        return settle(self.run, self.plan, self.request, self.models, self.identify, "cpu", deadline)

    def plain(self) -> Experiment:
        """What it would train with the plan and the recipe as they are; nothing is written."""
        return self.identify(Settings(plan=self.plan, recipe=self.request.recipe))


def begin(request: FitRequest, listener: Listener | None = None) -> Begun:
    """Open, measure, split and plan a dataset."""
    run = RunFolder(Path(request.run), listener, restart=request.restart)
    described = open_dataset(request, run.listener)
    fingerprint = measure(run, described, request)
    dataset, files = without_skipped(run, described, fingerprint, request)
    folds = split_cases(run, dataset, fingerprint, request)
    return Begun(request, run, dataset, files, fingerprint, folds, make_plan(run, fingerprint, request))

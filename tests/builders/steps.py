"""The steps of `fit` by themselves, as tests of single ones need them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from voxfit.core.progress import Listener
from voxfit.imaging.dataset import Dataset
from voxfit.planning.fingerprint import Fingerprint
from voxfit.planning.folds import Folds
from voxfit.planning.plan import ConfigurationName, Plan
from voxfit.planning.settings import Settings
from voxfit.preprocessing.store import Store
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

"""What a run folder holds: where each artefact lies, and what it must be made from. Reads records only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from voxfit.assessment.selection import Selection
from voxfit.core.layout import MANIFEST, Layout
from voxfit.core.records import Made, digest_of
from voxfit.imaging.dataset import Dataset
from voxfit.inference.model_json import ModelDescription
from voxfit.planning.grid import Grid
from voxfit.planning.plan import ConfigurationName
from voxfit.preprocessing.store import StoreManifest
from voxfit.running.experiment import Experiment, Trained
from voxfit.running.run_folder import Artefact


class FoldManifest(Made):
    """A finished training; `given_seconds` is the time that a budget gave it, None where nothing was timed."""

    schema_name: ClassVar[str] = "voxfit.fold/2"
    epochs: int
    seconds: float
    validation_cases: tuple[str, ...]
    given_seconds: float | None = None


class ValidationManifest(Made):
    """What a cross-validation was made from."""

    schema_name: ClassVar[str] = "voxfit.cross_validation/2"


def store_artefact(layout: Layout, grid: Grid, files: str, dataset: Dataset) -> Artefact[StoreManifest]:
    """The training cases prepared for a grid; `files` is their digest."""
    inputs = digest_of([grid.digest(), files, dataset.labels.digest()])
    return Artefact(layout.store(grid.folder), inputs, StoreManifest, MANIFEST)


def training_artefact(
    layout: Layout, experiment: Experiment, name: ConfigurationName, fold: int
) -> Artefact[FoldManifest]:
    """A training of a fold."""
    digest = experiment.training_digest(name, fold)
    return Artefact(layout.fold(name, fold).root, digest, FoldManifest, MANIFEST, costly=f"{name} fold {fold}")


def trained_folds(layout: Layout, experiment: Experiment, name: ConfigurationName) -> tuple[int, ...]:
    """All folds of a configuration whose weights are there and fit, whoever asked for them."""
    return tuple(fold for fold in experiment.fold_numbers if training_artefact(layout, experiment, name, fold).fits())


def validation_artefact(
    layout: Layout, experiment: Experiment, name: ConfigurationName, fold: int, kept: Sequence[str] = ()
) -> Artefact[ValidationManifest]:
    """The cross-validation of a configuration by one fold."""
    digest = experiment.validation_digest((name,), (fold,))
    return Artefact(layout.validation(name, fold).root, digest, ValidationManifest, MANIFEST, needs=tuple(kept))


def ensemble_artefact(
    layout: Layout, experiment: Experiment, names: Sequence[ConfigurationName], folds: Sequence[int]
) -> Artefact[ValidationManifest]:
    """The cross-validation of an ensemble by some folds."""
    digest = experiment.validation_digest(names, folds)
    return Artefact(layout.ensemble(names).root, digest, ValidationManifest, MANIFEST)


def model_artefact(
    layout: Layout, experiment: Experiment, selection: Selection, trained: Trained
) -> Artefact[ModelDescription]:
    """The model folder of what was chosen."""
    winner, plan = selection.winner(), experiment.plan
    names = [name for name in plan.configurations if name in winner.configurations]
    stages = [stage for name in names if (stage := plan.configurations[name].previous)]
    files = tuple(file for name in (*names, *stages) for file in weights_files(experiment, name, trained))
    digest = experiment.model_digest(winner, trained)
    return Artefact(layout.model, digest, ModelDescription, "model.json", needs=files)


def weights_files(experiment: Experiment, name: ConfigurationName, trained: Trained) -> tuple[str, ...]:
    """The weights of a configuration in a model folder."""
    return tuple(f"weights/{name}_fold_{fold}.safetensors" for fold in experiment.members(trained[name]))

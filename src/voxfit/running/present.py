"""What the artefacts of a run must be made from to fit its present plan, and which of them do. Reads records only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import PositiveFloat

from voxfit.assessment.selection import REPORTED_ONLY, Candidate
from voxfit.assessment.selection import pairs as ensembles
from voxfit.core.errors import Problem
from voxfit.core.records import Record, digest_of
from voxfit.imaging.labels import Labels
from voxfit.planning.folds import Folds
from voxfit.planning.identity import digest_of_training, training_seed
from voxfit.planning.plan import ConfigurationName, Plan
from voxfit.planning.recipe import Annealed, Recipe
from voxfit.preprocessing.normalization import masked_channels

TOLERANCE_MM = 1.0
"""Of the surface Dice in cross-validation."""


class FoldManifest(Record):
    """A finished training; `given_seconds` is the time that a budget gave it, None where nothing was timed."""

    schema_name: ClassVar[str] = "voxfit.fold/1"
    made_from: str
    epochs: int
    seconds: float
    validation_cases: tuple[str, ...]
    given_seconds: float | None = None


class Begun(Record):
    """A training under a budget that has begun: it keeps the time that it was given then."""

    schema_name: ClassVar[str] = "voxfit.begun/1"
    made_from: str
    seconds: PositiveFloat


class ValidationManifest(Record):
    """What a cross-validation was made from."""

    schema_name: ClassVar[str] = "voxfit.cross_validation/1"
    made_from: str


@dataclass(frozen=True)
class Present:
    """What a run is at present.

    Attributes:
        root: the run folder.
        plan, recipe, folds: of its trainings.
        files: digest of the training files.
        classes: of each training case.
    """

    root: Path
    plan: Plan
    recipe: Recipe
    folds: Folds
    files: str
    classes: Mapping[str, Sequence[int]]

    @property
    def fold_numbers(self) -> range:
        """All folds of the split."""
        return range(len(self.folds.validation))

    def fold_folder(self, name: str, fold: int) -> Path:
        """Where a fold is trained; `weights.safetensors` is there once it is finished."""
        return self.root / name / f"fold_{fold}"

    def fold_origin(self, name: ConfigurationName, fold: int) -> str:
        """Digest of what determines the weights of a fold.

        Which other folds are asked for is no part of it, nor is the share of a budget that they leave.
        """
        configuration = self.plan.configurations[name]
        previous = configuration.previous
        timed = bool(self.plan.fitted_to)
        training = digest_of_training(
            self.plan.labels,
            self.plan.topology(name),
            configuration,
            lasting(self.recipe, 1.0) if timed else self.recipe,
            training_cases=self.folds.training(fold),
            validation_cases=self.folds.validation[fold],
            seed=training_seed(self.recipe, name, fold),
            masked_channels=masked_channels(self.plan.normalization),
        )
        stage = [self.fold_origin(previous, other) for other in self.fold_numbers] if previous else []
        budget = [self.plan.fitted_to] if timed else []
        return digest_of([training, self.plan.grid(name).digest(), self.files, stage, *budget])

    def recipe_of(self, name: ConfigurationName, fold: int) -> Recipe:
        """How a fold is trained: one that has begun under this budget keeps its time."""
        path = self.fold_folder(name, fold) / "checkpoint" / "begun.json"
        if self.plan.fitted_to and path.exists():
            begun = Begun.load(path)
            if begun.made_from == self.fold_origin(name, fold):
                return lasting(self.recipe, begun.seconds)
        return self.recipe

    def begin(self, name: ConfigurationName, fold: int, seconds: float | None = None) -> None:
        """Note the time that a training is given, `seconds` or its share of the budget."""
        seconds = seconds or given_seconds(self.recipe_of(name, fold))
        if self.plan.fitted_to and seconds:
            path = self.fold_folder(name, fold) / "checkpoint" / "begun.json"
            Begun(made_from=self.fold_origin(name, fold), seconds=seconds).save(path)

    def is_trained(self, name: ConfigurationName, fold: int) -> bool:
        """Whether the weights of a fold are there and fit."""
        path = self.fold_folder(name, fold) / "manifest.json"
        return path.exists() and FoldManifest.load(path).made_from == self.fold_origin(name, fold)

    def trained(self, name: ConfigurationName) -> tuple[int, ...]:
        """All folds whose weights are there and fit, whoever asked for them."""
        return tuple(fold for fold in self.fold_numbers if self.is_trained(name, fold))

    def members(self, name: ConfigurationName) -> tuple[int, ...]:
        """The folds that are part of a model.

        Networks that have never seen foreground answer background everywhere, and would outvote the others in the mean.
        """
        trained, blind = self.trained(name), self.folds.blind(self.classes)
        return tuple(fold for fold in trained if fold not in blind) or trained

    def shared_folds(self, names: Sequence[ConfigurationName]) -> tuple[int, ...]:
        """The folds that are trained for all of some configurations."""
        return tuple(fold for fold in self.fold_numbers if all(self.is_trained(name, fold) for name in names))

    def validation_origin(self, names: Sequence[ConfigurationName]) -> str:
        """Digest of what determines the cross-validation of a configuration, or of an ensemble."""
        folds = [self.fold_origin(name, fold) for name in names for fold in self.shared_folds(names)]
        return digest_of([folds, TOLERANCE_MM, self.plan.inference.digest(), self.plan.single_component_labels])

    def validation_folder(self, names: Sequence[str]) -> Path:
        """Where a cross-validation lies."""
        return (
            self.root / "ensembles" / "+".join(names) if len(names) > 1 else self.root / names[0] / "cross_validation"
        )

    def is_validated(self, names: Sequence[ConfigurationName]) -> bool:
        """Whether the cross-validation of a configuration, or of an ensemble, is there and fits."""
        path = self.validation_folder(names) / "manifest.json"
        return path.exists() and ValidationManifest.load(path).made_from == self.validation_origin(names)

    def selection_origin(self, names: Sequence[ConfigurationName]) -> str:
        """Digest of what determines the choice among some configurations and their ensembles."""
        return digest_of([self.validation_origin(item) for item in candidates_of(names)])


def model_origin(present: Present, winner: Candidate) -> str:
    """Digest of what determines the model folder of a candidate."""
    plan = present.plan
    names = [name for name in plan.configurations if name in winner.configurations]
    weights = [present.fold_origin(name, fold) for name in names for fold in present.members(name)]
    return digest_of([winner.digest(), weights, plan.inference.digest(), plan.single_component_labels])


def candidates_of(names: Sequence[ConfigurationName]) -> list[tuple[ConfigurationName, ...]]:
    """What is compared: each configuration, and the ensembles."""
    by_name = {str(name): name for name in names}
    return [*((name,) for name in names), *(tuple(by_name[name] for name in pair) for pair in ensembles(names))]


def eligible(names: Sequence[ConfigurationName]) -> list[ConfigurationName]:
    """Those of some configurations that may be chosen."""
    return [name for name in names if name != REPORTED_ONLY] or list(names)


def given_seconds(recipe: Recipe) -> float | None:
    """The length of a timed training; None where nothing is timed."""
    return recipe.schedule.seconds if isinstance(recipe.schedule, Annealed) else None


def lasting(recipe: Recipe, seconds: float) -> Recipe:
    """A timed recipe with another length; any other as it is."""
    if not given_seconds(recipe):
        return recipe
    return recipe.model_copy(update={"schedule": recipe.schedule.model_copy(update={"seconds": seconds})})


def unseen_classes(folds: Folds, classes: Mapping[str, Sequence[int]], labels: Labels) -> list[Problem]:
    """What to say of the folds that do not train every class."""
    blind = folds.blind(classes)
    problems = []
    for fold, missing in folds.unseen(classes).items():
        names = ", ".join(labels.class_names[index - 1] for index in missing)
        remedy = "Its network is no part of the model." if fold in blind else "Its network cannot find it."
        problems.append(Problem(f"fold {fold}", f"no training case has {names}.", remedy, fatal=False))
    return problems

"""All that determines the trainings of a run, and the digests of everything that is made from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from voxfit.assessment.selection import REPORTED_ONLY, Candidate
from voxfit.assessment.selection import pairs as ensembles
from voxfit.core.errors import Problem
from voxfit.core.records import digest_of
from voxfit.imaging.labels import Labels
from voxfit.planning.folds import Folds
from voxfit.planning.identity import digest_of_training, training_seed
from voxfit.planning.plan import ConfigurationName, Plan
from voxfit.planning.settings import Settings, lasting
from voxfit.preprocessing.normalization import masked_channels

TOLERANCE_MM = 1.0
"""Of the surface Dice in cross-validation."""


@dataclass(frozen=True)
class Experiment:
    """All that determines trainings, cross-validations and the choice.

    Attributes:
        settings: plan and recipe.
        folds: the split.
        files: digest of the training files.
        classes: of each training case.
    """

    settings: Settings
    folds: Folds
    files: str
    classes: Mapping[str, Sequence[int]]
    _digests: dict[tuple[str, int], str] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def plan(self) -> Plan:
        """Of the trainings."""
        return self.settings.plan

    @property
    def fold_numbers(self) -> range:
        """All folds of the split."""
        return range(len(self.folds.validation))

    def training_digest(self, name: ConfigurationName, fold: int) -> str:
        """Of what determines the weights of a fold.

        Which other folds are asked for is no part of it, nor is the share of a budget that they leave.
        """
        if (name, fold) not in self._digests:
            self._digests[name, fold] = self._training_digest(name, fold)
        return self._digests[name, fold]

    def _training_digest(self, name: ConfigurationName, fold: int) -> str:
        plan, recipe, budget = self.plan, self.settings.recipe, self.settings.budget
        previous = plan.configurations[name].previous
        training = digest_of_training(
            plan.labels,
            plan.topology(name),
            self.settings.configuration(name, fold),
            lasting(recipe, 1.0) if budget else recipe,
            training_cases=self.folds.training(fold),
            validation_cases=self.folds.validation[fold],
            seed=training_seed(recipe, name, fold),
            masked_channels=masked_channels(plan.normalization),
        )
        stage = [self.training_digest(previous, other) for other in self.fold_numbers] if previous else []
        return digest_of([training, plan.grid(name).digest(), self.files, stage, *([budget] if budget else [])])

    def validation_digest(self, names: Sequence[ConfigurationName], folds: Sequence[int]) -> str:
        """Of what determines the cross-validation of a configuration, or of an ensemble, by some folds."""
        trainings = [self.training_digest(name, fold) for name in names for fold in folds]
        metrics = self.settings.recipe.metrics
        inference = [self.plan.inference.digest(), self.plan.single_component_labels]
        return digest_of([trainings, TOLERANCE_MM, *inference, *([metrics] if metrics else [])])

    def members(self, trained: Sequence[int]) -> tuple[int, ...]:
        """Those of some trained folds that are part of a model.

        Networks that have never seen foreground answer background everywhere, and would outvote the others in the mean.
        """
        blind = self.folds.blind(self.classes)
        return tuple(fold for fold in trained if fold not in blind) or tuple(trained)

    def selection_digest(self, trained: Trained) -> str:
        """Of what determines the choice among some configurations and their ensembles."""
        return digest_of([self.validation_digest(item, shared(trained, item)) for item in candidates_of([*trained])])

    def model_digest(self, winner: Candidate, trained: Trained) -> str:
        """Of what determines the model folder of a candidate."""
        names = [name for name in self.plan.configurations if name in winner.configurations]
        weights = [self.training_digest(name, fold) for name in names for fold in self.members(trained[name])]
        return digest_of([winner.digest(), weights, self.plan.inference.digest(), self.plan.single_component_labels])


Trained = Mapping[ConfigurationName, Sequence[int]]
"""The folds that are trained, of each configuration."""


def shared(trained: Trained, names: Sequence[ConfigurationName]) -> tuple[int, ...]:
    """The folds that are trained for all of some configurations."""
    return tuple(fold for fold in trained[names[0]] if all(fold in trained[name] for name in names))


def candidates_of(names: Sequence[ConfigurationName]) -> list[tuple[ConfigurationName, ...]]:
    """What is compared: each configuration, and the ensembles."""
    by_name = {str(name): name for name in names}
    return [*((name,) for name in names), *(tuple(by_name[name] for name in pair) for pair in ensembles(names))]


def eligible(names: Sequence[ConfigurationName]) -> list[ConfigurationName]:
    """Those of some configurations that may be chosen."""
    return [name for name in names if name != REPORTED_ONLY] or list(names)


def unseen_classes(folds: Folds, classes: Mapping[str, Sequence[int]], labels: Labels) -> list[Problem]:
    """What to say of the folds that do not train every class."""
    blind = folds.blind(classes)
    problems = []
    for fold, missing in folds.unseen(classes).items():
        names = ", ".join(labels.class_names[index - 1] for index in missing)
        remedy = "Its network is no part of the model." if fold in blind else "Its network cannot find it."
        problems.append(Problem(f"fold {fold}", f"no training case has {names}.", remedy, fatal=False))
    return problems

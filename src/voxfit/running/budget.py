"""What training will take on this device, and how to make it fit into a given time.

Where the paper's batch and width leave too few steps, the batch is lowered first, then the width, until about
`ENOUGH_STEPS` fit. docs/benchmarks.md has what such trainings reached.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from voxfit.core.errors import UsageError
from voxfit.inference.tiling import tiles
from voxfit.planning.plan import Configuration, ConfigurationName, Plan
from voxfit.planning.recipe import Annealed, Plateau, Recipe

ENOUGH_STEPS = 1500
SMALLEST_BATCH = 2
WIDTHS = (30, 24, 16, 12, 8)
LEARNING_RATE = 1e-2
"""Of short schedules; measured (docs/benchmarks.md). The paper's 3e-4 is for hundreds of epochs."""

_EPOCHS = 50
"""A timed training is divided into about this many epochs: checkpoints, and lines of its history."""
_CASE_SECONDS = 0.2
"""Of cross-validating one case, besides the network: reading, resampling, writing, scoring."""
_END_SECONDS = 8.0
"""Of what comes after the last cross-validation, and of starting its processes."""

StepTimer = Callable[[ConfigurationName, Configuration], float]
"""Seconds of one training step of a configuration."""


@dataclass(frozen=True)
class Fitted:
    """A configuration that fits its time, the seconds of its step, and what was changed, in words."""

    configuration: Configuration
    step_seconds: float
    changes: tuple[str, ...] = ()

    @property
    def sample_seconds(self) -> float:
        """Seconds of a training step for each sample of the batch."""
        return self.step_seconds / self.configuration.batch_size


@dataclass(frozen=True)
class BudgetPlan:
    """Plan and recipe that keep to a budget."""

    plan: Plan
    recipe: Recipe


def fit_to_budget(
    plan: Plan,
    recipe: Recipe,
    models: dict[ConfigurationName, int],
    *,
    seconds: float,
    validation_cases: int,
    timer: StepTimer,
) -> BudgetPlan:
    """Share a time over the models, and fit each into its share.

    Args:
        plan: as planned for unlimited time.
        recipe: the one that was asked for.
        models: how many folds of each configuration are trained.
        seconds: left, for all trainings and cross-validations.
        validation_cases: cases of a fold.
        timer: measures a step.

    Raises:
        UsageError: there is no time for a single step of each model.
    """
    begun = monotonic()
    count = sum(models.values())
    share = max(seconds, 0.0) / count

    def predicting(name: ConfigurationName, fitted: Fitted) -> float:
        return prediction_seconds(plan, fitted.configuration, fitted.sample_seconds, validation_cases)

    fitted: dict[ConfigurationName, Fitted] = {}
    for name in models:
        first = _smallest(plan.configurations[name])
        measured = Fitted(first, timer(name, first))
        time = max(share - predicting(name, measured), share / 2)
        fitted[name] = fit_configuration(name, plan.configurations[name], time, timer, measured)
    reserve = sum(models[name] * predicting(name, item) for name, item in fitted.items()) + _END_SECONDS
    each = (seconds - (monotonic() - begun) - reserve) / count
    slowest = max(item.step_seconds for item in fitted.values())
    if each < slowest:
        raise UsageError(
            f"The budget leaves {words(max(each, 0.0))} of training for each of {count} models, and one step takes "
            f"{slowest:.1f} s. Give more time, or ask for fewer --configurations or --folds."
        )
    changes = [change for item in fitted.values() for change in item.changes]
    changes.append(
        "each model is trained for "
        + words(each)
        + ": "
        + ", ".join(f"about {each / item.step_seconds:,.0f} steps of {name}" for name, item in fitted.items())
    )
    configurations = plan.configurations | {name: item.configuration for name, item in fitted.items()}
    return BudgetPlan(
        plan.model_copy(update={"configurations": configurations, "changes": (*plan.changes, *changes)}),
        _timed(recipe, each, slowest),
    )


def fit_configuration(
    name: ConfigurationName, configuration: Configuration, seconds: float, timer: StepTimer, smallest: Fitted
) -> Fitted:
    """Lower batch and width of a configuration until about `ENOUGH_STEPS` steps fit into a time.

    Args:
        name: of the configuration.
        configuration: as planned.
        seconds: for the training of one model.
        timer: measures a step.
        smallest: the configuration with the smallest batch, measured.
    """
    wanted = seconds / ENOUGH_STEPS
    best = smallest
    # A step costs about as much as its samples, but small batches cost more a sample: so a second guess is better.
    for _ in range(2):
        batch = min(int(wanted / best.sample_seconds), configuration.batch_size)
        if batch > best.configuration.batch_size:
            larger = configuration.model_copy(update={"batch_size": batch})
            measured = timer(name, larger)
            best = Fitted(larger, measured) if measured <= wanted * 1.1 else best
    for width in WIDTHS:
        if best.step_seconds <= wanted:
            break
        if width < best.configuration.base_features:
            narrower = best.configuration.model_copy(update={"base_features": width})
            best = Fitted(narrower, timer(name, narrower))
    return Fitted(best.configuration, best.step_seconds, tuple(_changes(name, configuration, best.configuration)))


def prediction_seconds(plan: Plan, configuration: Configuration, sample_seconds: float, cases: int) -> float:
    """About what predicting `cases` median cases takes, mirrored: a forward pass costs a third of a training step."""
    patch = configuration.patch_size
    shape = [max(size, edge) for size, edge in zip(configuration.median_shape, patch, strict=True)]
    passes = len(tiles(shape, patch)) << configuration.dimension
    if configuration.slice_axis is not None and "3d" in plan.configurations:
        passes *= plan.configurations["3d"].median_shape[configuration.slice_axis]
    return cases * (passes * sample_seconds / 3 + _CASE_SECONDS)


def counted_recipe(recipe: Recipe, epochs: int) -> Recipe:
    """A recipe that anneals within a number of epochs."""
    return recipe.model_copy(
        update={"schedule": Annealed(learning_rate=LEARNING_RATE, epochs=epochs), "amsgrad": False}
    )


def training_seconds(plan: Plan, recipe: Recipe, models: dict[ConfigurationName, int], timer: StepTimer) -> float:
    """About what all trainings will take at most.

    Args:
        plan: the configurations.
        recipe: steps and epochs.
        models: how many folds of each configuration are left to train.
        timer: measures a step.
    """
    total = 0.0
    for name, count in models.items():
        schedule = recipe.schedule
        if isinstance(schedule, Annealed) and schedule.seconds:
            total += count * schedule.seconds
            continue
        # A validation step costs about a third of a training step.
        steps = recipe.steps_per_epoch + recipe.validation_steps / 3
        epochs = schedule.epochs if isinstance(schedule, Plateau) else schedule.epochs or 0
        total += count * epochs * steps * timer(name, plan.configurations[name])
    return total


def words(seconds: float) -> str:
    """A duration for people: "45 s", "12 min", "3.5 h", "2.1 days"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def _timed(recipe: Recipe, seconds: float, step_seconds: float) -> Recipe:
    """A recipe that anneals within `seconds`, in epochs of some dozens of steps."""
    steps = math.floor(seconds / step_seconds / _EPOCHS)
    per_epoch = min(max(steps, 10), recipe.steps_per_epoch)
    return recipe.model_copy(
        update={
            "schedule": Annealed(learning_rate=LEARNING_RATE, seconds=round(seconds, 1)),
            # AMSGrad remembers the large gradients of the first steps for ever: in a short training, small classes
            # then take hundreds of steps to appear at all (docs/benchmarks.md).
            "amsgrad": False,
            "steps_per_epoch": per_epoch,
            "validation_steps": min(max(per_epoch // 25, 2), recipe.validation_steps),
        }
    )


def _smallest(configuration: Configuration) -> Configuration:
    return configuration.model_copy(update={"batch_size": min(SMALLEST_BATCH, configuration.batch_size)})


def _changes(name: ConfigurationName, planned: Configuration, fitted: Configuration) -> list[str]:
    changes = []
    if fitted.batch_size != planned.batch_size:
        changes.append(
            f"{name}: batch size {planned.batch_size} -> {fitted.batch_size}, so that more steps fit into the budget"
        )
    if fitted.base_features != planned.base_features:
        changes.append(
            f"{name}: {planned.base_features} -> {fitted.base_features} feature maps at full resolution, "
            "so that more steps fit into the budget"
        )
    return changes

"""About what trainings and predictions take, from the seconds of a training step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from voxfit.inference.tiling import tiles
from voxfit.planning.plan import Configuration, ConfigurationName, Plan
from voxfit.planning.recipes import Plateau, PolynomialDecay, Recipe

_CASE_SECONDS = 0.2
"""Of cross-validating one case, besides the network: reading, resampling, writing, scoring."""

StepTimer = Callable[[ConfigurationName, Configuration], float]
"""Seconds of one training step of a configuration; infinite where memory does not suffice."""


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


def prediction_seconds(plan: Plan, fitted: Fitted, cases: int) -> float:
    """About what predicting `cases` median cases takes: a forward pass costs a third of a training step."""
    configuration, axes = fitted.configuration, plan.inference.mirror_axes
    patch, across = configuration.patch_size, configuration.slice_axis
    # Half of the cases are larger than the median, and one voxel more can be another row of tiles.
    shape = [max(math.ceil(size * 1.1), edge) for size, edge in zip(configuration.median_shape, patch, strict=True)]
    mirrored = [axis for axis in range(3) if axis != across and (axes is None or axis in axes)]
    passes = len(tiles(shape, patch)) << len(mirrored)
    if across is not None and "3d" in plan.configurations:
        passes *= plan.configurations["3d"].median_shape[across]
    return cases * (passes * fitted.sample_seconds / 3 + _CASE_SECONDS)


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
        if isinstance(schedule, PolynomialDecay) and schedule.seconds:
            total += count * schedule.seconds
            continue
        # A validation step costs about a third of a training step.
        steps = recipe.steps_per_epoch + recipe.validation_steps / 3
        epochs = schedule.epochs if isinstance(schedule, Plateau) else schedule.epochs or 0
        total += count * epochs * steps * timer(name, plan.configurations[name])
    return total

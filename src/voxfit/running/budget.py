"""What training will take on this device, and how to make it fit into a given time.

Where the paper's batch and width leave too few steps, the batch is lowered first, then the width, then the patch, until
about `ENOUGH_STEPS` fit. docs/benchmarks.md has what such trainings reached.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from time import monotonic

from voxfit.core.errors import UsageError
from voxfit.core.formatting import format_duration, format_sizes
from voxfit.planning.patch_rules import volume_rule
from voxfit.planning.plan import Configuration, ConfigurationName, Plan
from voxfit.planning.recipes import SGD, Adam, PolynomialDecay, Recipe
from voxfit.running.estimates import Fitted, StepTimer, prediction_seconds

ENOUGH_STEPS = 1500
SMALLEST_BATCH = 2
WIDTHS = (30, 24, 16, 12, 8)
SMALLEST_PATCH = 64**3
"""The V of rule [A3] is not lowered further: smaller patches see too little of a patient."""
LEARNING_RATE = 1e-2
"""Of short schedules; measured (docs/benchmarks.md). The paper's 3e-4 is for hundreds of epochs."""

_FAR_TOO_SLOW = 1.5
"""A step that is likely to take this many times the time there is for it is not measured."""
_EPOCHS = 50
"""A timed training is divided into about this many epochs: checkpoints, and lines of its history."""
_END_SECONDS = 8.0
"""Of what comes after the last cross-validation, and of starting its processes."""


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
    fitted: dict[ConfigurationName, Fitted] = {}
    for name in models:
        first = _narrowest(plan.configurations[name])
        measured = Fitted(first, timer(name, first))
        if math.isinf(measured.step_seconds):
            raise UsageError(
                f"{name}: even {first.base_features} feature maps and a batch of {first.batch_size} do not fit into "
                "memory. Plan with a smaller --limit voxel_budget, or use a machine with more."
            )
        time = max(share - prediction_seconds(plan, measured, validation_cases), share / 2)
        fitted[name] = fit_configuration(name, plan, time, timer, measured)
    left = seconds - (monotonic() - begun)
    changes = [change for item in fitted.values() for change in item.changes]
    if _reserve(plan, models, fitted, validation_cases) > left / 2:
        # Better a trained network that looks once at an image than an untrained one that looks eight times.
        plan = plan.revised(inference=plan.inference.revised(mirror_axes=()))
        changes.append("predictions are not averaged over mirrored variants: cross-validation would take half the time")
    each, said = _share(plan, models, models, fitted, left, validation_cases)
    changes.append(said)
    configurations = plan.configurations | {name: item.configuration for name, item in fitted.items()}
    return BudgetPlan(
        plan.revised(configurations=configurations, changes=(*plan.changes, *changes)),
        _timed(recipe, each, max(item.step_seconds for item in fitted.values())),
    )


def share_again(
    plan: Plan,
    left: dict[ConfigurationName, int],
    validated: dict[ConfigurationName, int],
    *,
    seconds: float,
    validation_cases: int,
    timer: StepTimer,
) -> tuple[float, str]:
    """Share a time over the trainings that are left of a plan that was fitted before.

    Args:
        plan: it; it stays.
        left: how many folds of each configuration are still to be trained.
        validated: how many will then be cross-validated.
        seconds: left, for all of that.
        validation_cases: cases of a fold.
        timer: measures a step.

    Returns:
        the seconds of each training, and that in words.

    Raises:
        UsageError: there is no time for a single step of each.
    """
    begun = monotonic()
    fitted = {
        name: Fitted(plan.configurations[name], timer(name, plan.configurations[name]))
        for name in {**left, **validated}
    }
    each, said = _share(plan, left, validated, fitted, seconds - (monotonic() - begun), validation_cases)
    return each, f"folds that were asked for later: {said}"


def _share(
    plan: Plan,
    models: dict[ConfigurationName, int],
    validated: dict[ConfigurationName, int],
    fitted: dict[ConfigurationName, Fitted],
    left: float,
    validation_cases: int,
) -> tuple[float, str]:
    """Seconds of each training, and that in words."""
    count = sum(models.values())
    each = (left - _reserve(plan, validated, fitted, validation_cases)) / count
    slowest = max(fitted[name].step_seconds for name in models)
    if each < slowest:
        raise UsageError(
            f"The budget leaves {format_duration(max(each, 0.0))} of training for each of {count} models, and one "
            f"step takes {slowest:.1f} s. Give more time, or ask for fewer --configurations or --folds."
        )
    steps = ", ".join(f"about {each / fitted[name].step_seconds:,.0f} steps of {name}" for name in models)
    return each, f"each model is trained for {format_duration(each)}: {steps}"


def _reserve(
    plan: Plan, models: dict[ConfigurationName, int], fitted: dict[ConfigurationName, Fitted], cases: int
) -> float:
    """Seconds that are kept back for cross-validations and for what comes after."""
    return sum(count * prediction_seconds(plan, fitted[name], cases) for name, count in models.items()) + _END_SECONDS


def fit_configuration(
    name: ConfigurationName, plan: Plan, seconds: float, timer: StepTimer, narrowest: Fitted
) -> Fitted:
    """Fit patch, width and batch of a configuration, so that about `ENOUGH_STEPS` steps fit into a time.

    The search goes upwards from the cheapest network: what is far too slow is never tried.

    Args:
        name: of the configuration.
        plan: as planned.
        seconds: for the training of one model.
        timer: measures a step.
        narrowest: the configuration with the smallest batch and width, measured.
    """
    planned, wanted, best = plan.configurations[name], seconds / ENOUGH_STEPS, narrowest

    def attempt(larger: Configuration, likely_factor: float) -> bool:
        nonlocal best
        if best.step_seconds * likely_factor > wanted * _FAR_TOO_SLOW:
            return False
        measured = timer(name, larger)
        if measured <= wanted:
            best = Fitted(larger, measured)
        return measured <= wanted

    if best.step_seconds > wanted:
        smaller = smaller_patch(best.configuration, plan, wanted / best.step_seconds)
        best = Fitted(smaller, timer(name, smaller)) if smaller != best.configuration else best
    for width in (*sorted(WIDTHS), planned.base_features):
        before = best.configuration.base_features
        if before < width <= planned.base_features and not attempt(
            best.configuration.with_width(width), width / before
        ):
            break
    if best.configuration.base_features == planned.base_features:
        # A step costs about as much as its samples, but small batches cost more a sample: so guess twice.
        for _ in range(2):
            batch = min(int(wanted / best.sample_seconds), planned.batch_size)
            if batch <= best.configuration.batch_size or not attempt(best.configuration.revised(batch_size=batch), 1.0):
                break
    return Fitted(best.configuration, best.step_seconds, tuple(_changes(name, planned, best.configuration)))


def smaller_patch(configuration: Configuration, plan: Plan, share: float) -> Configuration:
    """A 3D configuration with the patch of rule [A3] for `share` of its voxels, at least `SMALLEST_PATCH`, as V.

    2D patches, and networks that were not planned by the paper's rules, stay as they are.
    """
    if configuration.dimension == 2 or configuration.stages:
        return configuration
    voxels = math.prod(configuration.patch_size)
    limits = plan.limits.revised(voxel_budget=max(int(voxels * share), min(SMALLEST_PATCH, voxels)))
    rule = volume_rule(configuration.median_shape, configuration.spacing, plan.num_cases, limits)
    if math.prod(rule.patch_size) >= voxels:
        return configuration
    return configuration.revised(patch_size=rule.patch_size, num_pool=rule.num_pool)


def counted_recipe(recipe: Recipe, epochs: int) -> Recipe:
    """A recipe that anneals within a number of epochs."""
    return recipe.revised(
        schedule=PolynomialDecay(learning_rate=_highest_rate(recipe), epochs=epochs),
        optimizer=_short_sighted(recipe.optimizer),
    )


def _timed(recipe: Recipe, seconds: float, step_seconds: float) -> Recipe:
    """A recipe that anneals within `seconds`, in epochs of some dozens of steps."""
    steps = math.floor(seconds / step_seconds / _EPOCHS)
    per_epoch = min(max(steps, 10), recipe.steps_per_epoch)
    return recipe.revised(
        schedule=PolynomialDecay(learning_rate=_highest_rate(recipe), seconds=round(seconds, 1)),
        optimizer=_short_sighted(recipe.optimizer),
        steps_per_epoch=per_epoch,
        validation_steps=min(max(per_epoch // 25, 2), recipe.validation_steps),
    )


def _highest_rate(recipe: Recipe) -> float:
    """Of a recipe that anneals already, its own; the paper's is too low for a short schedule."""
    return recipe.schedule.learning_rate if isinstance(recipe.schedule, PolynomialDecay) else LEARNING_RATE


def _short_sighted(optimizer: Adam | SGD) -> Adam | SGD:
    """AMSGrad remembers the large gradients of the first steps for ever: in a short training, small classes then take
    hundreds of steps to appear at all (docs/benchmarks.md)."""
    return optimizer.revised(amsgrad=False) if isinstance(optimizer, Adam) else optimizer


def _narrowest(configuration: Configuration) -> Configuration:
    narrow = configuration.with_width(min(*WIDTHS, configuration.base_features))
    return narrow.revised(batch_size=min(SMALLEST_BATCH, configuration.batch_size))


def _changes(name: ConfigurationName, planned: Configuration, fitted: Configuration) -> list[str]:
    pairs = [
        (f"batch size {planned.batch_size} -> {fitted.batch_size}", planned.batch_size != fitted.batch_size),
        (
            f"{planned.base_features} -> {fitted.base_features} feature maps at full resolution",
            planned.base_features != fitted.base_features,
        ),
        (
            f"patch {format_sizes(planned.patch_size)} -> {format_sizes(fitted.patch_size)}",
            planned.patch_size != fitted.patch_size,
        ),
    ]
    return [f"{name}: {what}, so that more steps fit into the budget" for what, changed in pairs if changed]

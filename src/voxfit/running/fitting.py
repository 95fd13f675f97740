"""Plan and recipe made to fit the device: the time of a budget, and the memory that there is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic

from voxfit.core.formatting import format_duration
from voxfit.core.layout import Layout
from voxfit.core.records import digest_of
from voxfit.learning.engine import is_out_of_memory, release_memory
from voxfit.learning.task import TrainingTask, measure_step
from voxfit.planning.architecture import multiplications
from voxfit.planning.plan import Configuration, ConfigurationName, Plan
from voxfit.planning.recipes import Recipe
from voxfit.planning.settings import Settings, given_seconds, lasting
from voxfit.running.artefacts import FoldManifest, trained_folds, training_artefact
from voxfit.running.budget import counted_recipe, fit_to_budget, share_again
from voxfit.running.estimates import training_seconds
from voxfit.running.experiment import Experiment
from voxfit.running.preparation import Models
from voxfit.running.request import FitRequest
from voxfit.running.run_folder import Artefact, RunFolder
from voxfit.running.trainings import OutOfMemory, halve_batch

_NARROW = 8
"""Feature maps of the network that is measured where the planned one is slow."""
_LONG_STEP_SECONDS = 60.0
_TRIAL = "a trial step did not fit."

Identify = Callable[[Settings], Experiment]
"""What settings make of a run whose folds, files and classes are known."""


def settle(
    run: RunFolder, plan: Plan, request: FitRequest, models: Models, identify: Identify, device: str, deadline: float
) -> Experiment:
    """Plan and recipe of the trainings: those of an earlier run that was asked for the same; else made for this one.

    Args:
        run: keeps them.
        plan: of the rules, or of the user.
        request: recipe, and epochs or budget.
        models: what is trained.
        identify: what settings make of the run.
        device: where it is trained.
        deadline: of `monotonic`, where there is a budget.

    Raises:
        UsageError: finished trainings would have to be set aside.
    """
    metrics = request.recipe.metrics  # of these no training depends
    recipe = request.recipe.revised(metrics=())
    recipe = counted_recipe(recipe, request.epochs) if request.epochs else recipe
    asked = Settings(plan=plan.revised(network=recipe.network), recipe=recipe, planned=plan.digest())
    if request.budget_seconds:
        models_asked = sorted(set(request.configurations)) if request.configurations else None
        # Another budget, other models or another recipe make another plan; folds do not.
        asked = asked.revised(budget=digest_of([[request.budget_seconds, models_asked], recipe.digest()]))
    artefact = Artefact(run.layout.training, asked.digest(), Settings)
    if asked.budget:
        experiment = _settle_budget(
            run, artefact, asked, models, identify, StepTimes(asked.plan, recipe, device), deadline
        )
    else:
        run.ask_before_losing(_trainings(run.layout, identify(artefact.find() or asked), models))
        experiment = identify(run.obtain(artefact, lambda _: asked))
    run.ask_before_losing(_trainings(run.layout, experiment, models))  # where data changed, and the settings did not
    settings = experiment.settings.revised(recipe=experiment.settings.recipe.revised(metrics=metrics))
    settings.keep(run.layout.training)
    return identify(settings)


def _settle_budget(
    run: RunFolder,
    artefact: Artefact[Settings],
    asked: Settings,
    models: Models,
    identify: Identify,
    times: StepTimes,
    deadline: float,
) -> Experiment:
    """The settings of a budget: fitted once; where other folds are asked for later, the time is shared anew."""
    folds = identify(asked).folds.validation
    cases, wanted = max(map(len, folds)), tuple(sorted({fold for numbers in models.values() for fold in numbers}))
    # Whatever is trained belongs to other settings, if these are not there.
    everything = [(name, fold) for name in models for fold in range(len(folds))]
    trained = [f"{name} fold {fold}" for name, fold in everything if run.layout.fold(name, fold).manifest.exists()]

    def make(_: Path) -> Settings:
        run.listener.stage("Fitting batch and width to the budget")
        counts, left = {name: len(numbers) for name, numbers in models.items()}, deadline - monotonic()
        fitted = fit_to_budget(
            asked.plan, asked.recipe, counts, seconds=left, validation_cases=cases, timer=times.measure
        )
        for change in fitted.plan.changes[len(asked.plan.changes) :]:
            run.listener.say(change)
        return asked.revised(plan=fitted.plan, recipe=fitted.recipe, shared_among=wanted)

    experiment = identify(run.obtain(replace(artefact, costly=", ".join(trained)), make))
    left = left_to_train(run.layout, experiment, models)
    if not left or experiment.settings.shared_among == wanted:
        return experiment
    run.listener.stage("Sharing the budget over the folds that are left")
    there = {name: trained_folds(run.layout, experiment, name) for name in models}
    validated = {name: len({*there[name], *numbers}) for name, numbers in models.items()}
    settings, seconds = experiment.settings, deadline - monotonic()
    each, said = share_again(
        settings.plan, left, validated, seconds=seconds, validation_cases=cases, timer=times.measure
    )
    run.listener.say(said)
    plan = settings.plan.revised(changes=(*settings.plan.changes, said))
    return identify(settings.revised(plan=plan, recipe=lasting(settings.recipe, round(each, 1)), shared_among=wanted))


def _trainings(layout: Layout, experiment: Experiment, models: Models) -> list[Artefact[FoldManifest]]:
    return [training_artefact(layout, experiment, name, fold) for name, folds in models.items() for fold in folds]


def left_to_train(layout: Layout, experiment: Experiment, models: Models) -> dict[ConfigurationName, int]:
    """How many folds are not trained yet, of each configuration that has such."""
    left = {name: len({*folds} - {*trained_folds(layout, experiment, name)}) for name, folds in models.items()}
    return {name: count for name, count in left.items() if count}


@dataclass(frozen=True)
class StepTimes:
    """Times of training steps on a device.

    Attributes:
        plan: labels and channels.
        recipe: optimiser and precision.
        device: "cpu", "cuda" or "mps".
    """

    plan: Plan
    recipe: Recipe
    device: str

    def measure(self, name: ConfigurationName, configuration: Configuration) -> float:
        """Seconds of one step of a configuration; infinite where memory does not suffice."""
        plan = self._with(name, configuration)
        task = TrainingTask(
            name=name,
            labels=plan.labels,
            topology=plan.topology(name),
            configuration=configuration,
            recipe=self.recipe,
            training_cases=(),
            validation_cases=(),
            seed=0,
        )
        try:
            return measure_step(task, self.device)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        release_memory()
        return math.inf

    def estimate(self, name: ConfigurationName, configuration: Configuration) -> float:
        """The same; but where a step would take very long, a narrow network is measured and its time scaled."""
        narrow = configuration.with_width(min(_NARROW, configuration.base_features))
        if narrow == configuration:
            return self.measure(name, configuration)
        sizes = [
            multiplications(self._with(name, item).topology(name), item.patch_size) for item in (narrow, configuration)
        ]
        scaled = self.measure(name, narrow) * sizes[1] / sizes[0]
        # Narrow networks are less efficient, so this is more than it will be.
        return scaled if scaled > _LONG_STEP_SECONDS else self.measure(name, configuration)

    def _with(self, name: ConfigurationName, configuration: Configuration) -> Plan:
        return self.plan.revised(configurations=self.plan.configurations | {name: configuration})


def fit_to_memory(
    run: RunFolder, experiment: Experiment, left: Mapping[ConfigurationName, int], device: str
) -> tuple[Experiment, dict[ConfigurationName, float]]:
    """Try a step of each configuration that is left; where memory does not suffice for it, halve the batch once.

    Under a budget all of this was tried when it was fitted.

    Returns:
        what is trained, changed or not; and the seconds of a step of each configuration.

    Raises:
        TrainingError: half of the batch does not fit either, or there is none.
    """
    seconds: dict[ConfigurationName, float] = {}
    if given_seconds(experiment.settings.recipe):
        return experiment, seconds
    times = StepTimes(experiment.plan, experiment.settings.recipe, device)
    for name in left:
        seconds[name] = times.estimate(name, experiment.plan.configurations[name])
        if math.isinf(seconds[name]):
            failure = OutOfMemory(name, experiment.plan.configurations[name], device, _TRIAL)
            experiment = halve_batch(run, experiment, name, "in a trial step", failure)
            seconds[name] = times.estimate(name, experiment.plan.configurations[name])
        if math.isinf(seconds[name]):
            raise OutOfMemory(name, experiment.plan.configurations[name], device, _TRIAL)
    return experiment, seconds


def announce(
    run: RunFolder,
    experiment: Experiment,
    left: Mapping[ConfigurationName, int],
    seconds: Mapping[ConfigurationName, float],
    device: str,
) -> None:
    """Say what the trainings that are left take, by the seconds of a step, and what to do if that is too long."""
    if not left:
        return
    total = training_seconds(experiment.plan, experiment.settings.recipe, dict(left), lambda name, _: seconds[name])
    count = sum(left.values())
    run.listener.say(f"Training {count} model{'s' * (count > 1)} on {device}: {format_duration(total)} at most.")
    if total > 48 * 3600:
        run.listener.warn(
            "That is the paper's schedule on this device. For less: --budget 2h (all in that time), --epochs 50, "
            "--configurations 3d (fewer models), --folds 0 (one fold), or a machine with a GPU."
        )

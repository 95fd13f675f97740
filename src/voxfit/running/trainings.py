"""The trainings of a run: one fold of one configuration each, found or made."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import safetensors.torch
import torch
from pydantic import PositiveFloat

from voxfit.core.errors import TrainingError
from voxfit.core.formatting import format_sizes
from voxfit.core.layout import FoldLayout, Layout, part_of
from voxfit.core.progress import Listener
from voxfit.core.records import Record, write_atomically
from voxfit.learning.engine import StepMode, free_bytes, is_out_of_memory, release_memory
from voxfit.learning.sampling import Previous
from voxfit.learning.task import TrainingTask, checkpoint_folder
from voxfit.learning.training import Training
from voxfit.networks.unet import inference_weights
from voxfit.planning.identity import training_seed
from voxfit.planning.plan import Configuration, ConfigurationName
from voxfit.planning.recipes import FEW_STEPS
from voxfit.planning.settings import Settings, given_seconds, lasting
from voxfit.preprocessing.normalization import masked_channels
from voxfit.preprocessing.store import Store
from voxfit.running.artefacts import FoldManifest, trained_folds, training_artefact
from voxfit.running.experiment import Experiment
from voxfit.running.run_folder import RunFolder

_LESS_MEMORY = (
    "The batch cannot be smaller. Lower patch_size (and num_pool) or base_features of the configuration in plan.json, "
    "plan with a smaller --limit voxel_budget, or use a machine with more memory. Checkpoints are kept."
)


class GivenTime(Record):
    """The time that a budget gave a training when it began; it keeps that, whatever is asked for later."""

    schema_name: ClassVar[str] = "voxfit.begun/2"
    seconds: PositiveFloat


class OutOfMemory(TrainingError):
    """A training, or a trial step of it, did not fit into memory.

    Args:
        name: of what was tried, "3d fold 0".
        configuration: as it was tried.
        device: where.
        reason: what was said.
    """

    def __init__(self, name: str, configuration: Configuration, device: str, reason: str) -> None:
        free = free_bytes(torch.device(device))
        left = f" ({free / 2**30:.1f} GiB are free now)" if free else ""
        self.what = (
            f"{name}: out of memory on {device} with a batch of {configuration.batch_size} patches of "
            f"{format_sizes(configuration.patch_size)} voxels "
            f"and {configuration.base_features} feature maps{left}: {reason.splitlines()[0]}"
        )
        super().__init__(f"{self.what} {_LESS_MEMORY}")


def training_task(
    experiment: Experiment, name: ConfigurationName, fold: int, seconds: float | None = None
) -> TrainingTask:
    """What is trained on one fold; `seconds` is the time it was given, where that is another than the recipe's."""
    plan, recipe = experiment.plan, experiment.settings.recipe
    recipe = lasting(recipe, seconds) if seconds else recipe
    return TrainingTask(
        name=f"{name} fold {fold}",
        labels=plan.labels,
        topology=plan.topology(name),
        configuration=experiment.settings.configuration(name, fold),
        recipe=recipe,
        training_cases=experiment.folds.training(fold),
        validation_cases=experiment.folds.validation[fold],
        seed=training_seed(recipe, name, fold),
        masked_channels=masked_channels(plan.normalization),
    )


def train(
    run: RunFolder,
    experiment: Experiment,
    name: ConfigurationName,
    fold: int,
    store: Store,
    previous: Previous | None,
    device: str,
) -> Path:
    """The trained weights of a fold of a run: those that are there, or new ones.

    Args:
        run: where they are.
        experiment: what determines them.
        name, fold: of the training.
        store: the prepared cases.
        previous: what the stage before says of them, where there is one.
        device: "cpu", "cuda" or "mps".

    Raises:
        OutOfMemory: memory does not suffice; what was trained is kept.
    """
    place = run.layout.fold(name, fold)

    def make(part: Path) -> FoldManifest:
        run.listener.stage(f"Training {name} fold {fold}")
        task = training_task(experiment, name, fold, given_time(part, experiment))
        known = _step_mode(run.layout, experiment, name)
        return train_fold(task, store, previous, device, FoldLayout(part), run.listener, known)

    run.obtain(training_artefact(run.layout, experiment, name, fold), make)
    shutil.rmtree(place.checkpoints, ignore_errors=True)
    return place.weights


def train_fold(
    task: TrainingTask,
    store: Store,
    previous: Previous | None,
    device: str,
    folder: FoldLayout,
    listener: Listener,
    known: StepMode | None = None,
) -> FoldManifest:
    """Train to the end, from the newest checkpoint where there is one, and write the weights.

    Args:
        task: what to train.
        store: the prepared cases.
        previous: what the stage before says of them, where there is one.
        device: "cpu", "cuda" or "mps".
        folder: gets weights and history; holds checkpoints meanwhile.
        listener: hears of every epoch.
        known: how steps are best executed, where that was measured.

    Returns:
        what came of it; what it was made from is left to the caller.

    Raises:
        OutOfMemory: memory does not suffice.
        TrainingError: losses are not finite, or patches cannot be made.
        Interrupted: a signal came; a checkpoint was written.
    """
    done = _attempt(partial(Training, task, store, folder.root, device, listener, previous, known))
    if isinstance(done, str):  # raised only here, for an error keeps alive whatever its frames hold
        release_memory()
        raise OutOfMemory(task.name, task.configuration, device, done)
    training, network = done
    steps = training.progress.steps
    if steps < FEW_STEPS:
        listener.warn(
            f"{task.name}: only {steps} training steps. So short a training may leave structures "
            "unlearned: give a larger --budget or more --epochs, or let nothing else run on this machine."
        )
    write_atomically(folder.weights, safetensors.torch.save(inference_weights(network)))
    return FoldManifest(
        epochs=training.progress.epoch,
        seconds=round(training.progress.seconds, 1),
        validation_cases=task.validation_cases,
        given_seconds=given_seconds(task.recipe),
    )


def _attempt(begin: Callable[[], Training]) -> tuple[Training, torch.nn.Module] | str:
    """A training that has come to its end, and its network; or why memory did not suffice."""
    try:
        training = begin()
        return training, training.run()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return str(error).strip() or "no memory is left"


def given_time(part: Path, experiment: Experiment) -> float | None:
    """The time of a training under a budget: what it was given when it began, or its share now, which is noted."""
    seconds, path = given_seconds(experiment.settings.recipe), FoldLayout(part).given
    if not experiment.settings.budget or seconds is None:
        return None
    if path.exists():
        return GivenTime.load(path).seconds
    GivenTime(seconds=seconds).save(path)
    return seconds


def _step_mode(layout: Layout, experiment: Experiment, name: ConfigurationName) -> StepMode | None:
    """How another fold executes its steps: what was measured there holds here."""
    paths = [layout.fold(name, fold).step_mode for fold in trained_folds(layout, experiment, name)]
    return next((StepMode.load(path) for path in paths if path.exists()), None)


def halve_batch(
    run: RunFolder, experiment: Experiment, name: ConfigurationName, where: str, failure: OutOfMemory
) -> Experiment:
    """Go on with half the batch of a configuration, and record that. Folds that are trained keep theirs.

    Args:
        run: keeps the settings, and the unfinished trainings, which go on.
        experiment: as it was.
        name: of the configuration that did not fit into memory.
        where: it did not fit, "in fold 2".
        failure: what was said.

    Raises:
        OutOfMemory: `failure`, where the batch is as small as the plan allows.
    """
    settings = _halved(experiment.settings, name, trained_folds(run.layout, experiment, name), where)
    if settings is None:
        raise failure
    smaller = replace(experiment, settings=settings)
    _carry_on(run.layout, experiment, smaller, name)
    settings.save(run.layout.training)
    batch = settings.plan.configurations[name].batch_size
    run.listener.warn(f"{failure.what} The batch is halved to {batch}, in training.json too, and the training goes on.")
    return smaller


def _halved(settings: Settings, name: ConfigurationName, trained: Sequence[int], where: str) -> Settings | None:
    """The settings with half the batch of a configuration; None where it is as small as the plan allows."""
    plan, before = settings.plan, settings.plan.configurations[name]
    batch = max(before.batch_size // 2, plan.limits.min_batch_size)
    if batch >= before.batch_size:
        return None
    change = f"{name}: batch size {before.batch_size} -> {batch}, because memory ran out {where}"
    if trained:
        change += f"; trained with {before.batch_size}: fold {', '.join(map(str, trained))}"
    sizes = dict.fromkeys(trained, before.batch_size) | settings.batch_sizes.get(name, {})
    smaller = plan.configurations | {name: before.revised(batch_size=batch)}
    return settings.revised(
        plan=plan.revised(configurations=smaller, changes=(*plan.changes, change)),
        batch_sizes={**settings.batch_sizes, name: sizes},
    )


def _carry_on(layout: Layout, before: Experiment, after: Experiment, name: ConfigurationName) -> None:
    """Let unfinished trainings go on with a smaller batch: weights and optimiser do not depend on it."""
    for fold in before.fold_numbers:
        path = layout.fold(name, fold).root
        old, new = (part_of(path, item.training_digest(name, fold)) for item in (before, after))
        if old == new or not old.is_dir() or new.exists():
            continue
        old.rename(new)
        seconds = GivenTime.load(FoldLayout(new).given).seconds if FoldLayout(new).given.exists() else None
        checkpoints, there = (
            checkpoint_folder(new, training_task(item, name, fold, seconds)) for item in (before, after)
        )
        if checkpoints.exists():
            checkpoints.rename(there)

"""The trainings of a run: one fold of one configuration each, made or found."""

from __future__ import annotations

import math
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray

from voxfit.core.durability import open_array
from voxfit.core.errors import TrainingError
from voxfit.core.records import write_atomically
from voxfit.learning.engine import Execution, free_bytes, is_out_of_memory, release_memory
from voxfit.learning.sampling import Previous
from voxfit.learning.task import TrainingTask, checkpoint_folder, measure_step
from voxfit.learning.training import Training
from voxfit.networks.unet import UNet
from voxfit.planning.identity import training_seed
from voxfit.planning.plan import Configuration, ConfigurationName
from voxfit.planning.recipe import FEW_STEPS
from voxfit.planning.stages import multiplications
from voxfit.preprocessing.normalization import masked_channels
from voxfit.running.budget import training_seconds, words
from voxfit.running.present import FoldManifest, given_seconds

if TYPE_CHECKING:
    from voxfit.running.pipeline import Run


_NARROW = 8
"""Feature maps of the network that is measured where the planned one is slow."""
_LONG_STEP_SECONDS = 60.0
_LESS_MEMORY = (
    "The batch cannot be smaller. Lower patch_size (and num_pool) or base_features of the configuration in plan.json, "
    "plan with a smaller --limit voxel_budget, or use a machine with more memory. Checkpoints are kept."
)


def training_task(run: Run, name: ConfigurationName, fold: int) -> TrainingTask:
    """What is trained on one fold."""
    plan, present = run.settings[0], run.present
    recipe = present.recipe_of(name, fold)
    return TrainingTask(
        name=f"{name} fold {fold}",
        labels=plan.labels,
        topology=plan.topology(name),
        configuration=plan.configurations[name],
        recipe=recipe,
        training_cases=run.folds.training(fold),
        validation_cases=run.folds.validation[fold],
        seed=training_seed(recipe, name, fold),
        masked_channels=masked_channels(plan.normalization),
    )


def is_trained(run: Run, name: ConfigurationName, fold: int) -> bool:
    """Whether the weights of a fold are there and fit the plan."""
    return run.present.is_trained(name, fold)


def previous_stage(run: Run, name: ConfigurationName) -> Previous | None:
    """The out-of-fold segmentations of the stage before a configuration, where it has one."""
    plan, _ = run.settings
    before = plan.configurations[name].previous
    if before is None:
        return None
    folder = run.root / before / "cross_validation" / "next_stage"

    def segmentation(case: str) -> NDArray[np.int16]:
        return open_array(folder / f"{case}.npy", f"Delete the folder {folder.parent}; `fit` makes it again.")

    return Previous(segmentation, plan.labels.count - 1)


def train(run: Run, name: ConfigurationName, fold: int) -> Path:
    """The trained weights of one fold."""
    folder = run.present.fold_folder(name, fold)
    weights = folder / "weights.safetensors"
    if is_trained(run, name, fold):
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)  # a kill may have come before the one below
        return weights
    if (folder / "manifest.json").exists():
        run.listener.say(f"{name} fold {fold} was trained with other settings; it is kept under superseded/.")
        run.workspace.set_aside(folder)
    run.listener.stage(f"Training {name} fold {fold}")
    run.present.begin(name, fold)
    done = _attempt(run, name, fold)
    if isinstance(done, str):
        _halve_batch(run, name, fold, done)
        done = _attempt(run, name, fold)
    if isinstance(done, str):
        raise TrainingError(f"{_out_of_memory(run, name, done)} {_LESS_MEMORY}")
    training, network = done
    steps = training.progress.steps
    if steps < FEW_STEPS:
        run.listener.warn(
            f"{name} fold {fold}: only {steps} training steps. So short a training may leave structures "
            "unlearned: give a larger --budget or more --epochs, or let nothing else run on this machine."
        )
    write_atomically(weights, safetensors.torch.save(network.inference_weights()))
    FoldManifest(
        made_from=run.present.fold_origin(name, fold),
        epochs=training.progress.epoch,
        seconds=round(training.progress.seconds, 1),
        validation_cases=training.task.validation_cases,
        given_seconds=given_seconds(training.task.recipe),
    ).save(folder / "manifest.json")
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    return weights


def _attempt(run: Run, name: ConfigurationName, fold: int) -> tuple[Training, UNet] | str:
    """A training that has come to its end, and its network; or why there was not enough memory for it."""
    try:
        training = Training(
            training_task(run, name, fold),
            run.store(run.settings[0].grid(name)),
            run.present.fold_folder(name, fold),
            run.device,
            run.listener,
            previous_stage(run, name),
            _execution_of_others(run, name),
        )
        return training, training.run()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return str(error).strip() or "no memory is left"


def _execution_of_others(run: Run, name: ConfigurationName) -> Execution | None:
    """How another fold of this run executes its steps: what was measured there holds here."""
    for other in run.present.trained(name):
        path = run.present.fold_folder(name, other) / "execution.json"
        if path.exists():
            return Execution.load(path)
    return None


def _out_of_memory(run: Run, name: ConfigurationName, reason: str) -> str:
    """What did not fit, in numbers."""
    configuration = run.settings[0].configurations[name]
    patch = " x ".join(str(size) for size in configuration.patch_size)
    free = free_bytes(torch.device(run.device))
    left = f" ({free / 2**30:.1f} GiB are free now)" if free else ""
    return (
        f"{name}: out of memory on {run.device} with a batch of {configuration.batch_size} patches of {patch} voxels "
        f"and {configuration.base_features} feature maps{left}: {reason.splitlines()[0]}"
    )


def _halve_batch(run: Run, name: ConfigurationName, fold: int, reason: str) -> None:
    """Halve the batch of a configuration in plan.json, and let its trainings go on with that.

    Folds that are trained stay as they are, and an unfinished training keeps its checkpoint: weights and optimiser
    do not depend on the batch.

    Raises:
        TrainingError: the batch is as small as the plan allows.
    """
    release_memory()
    what = _out_of_memory(run, name, reason)
    plan, _ = run.settings
    before = plan.configurations[name]
    batch = max(before.batch_size // 2, plan.limits.min_batch_size)
    if batch >= before.batch_size:
        raise TrainingError(f"{what} {_LESS_MEMORY}")
    run.listener.warn(f"{what} The batch is halved to {batch}, in plan.json too, and the training goes on.")
    old = run.present
    trained = old.trained(name)
    begun = [fold for fold in old.fold_numbers if (old.fold_folder(name, fold) / "checkpoint").is_dir()]
    checkpoints = {other: _checkpoints(run, name, other) for other in begun}
    times = {other: given_seconds(old.recipe_of(name, other)) for other in begun}
    change = f"{name}: batch size {before.batch_size} -> {batch}, because memory ran out in fold {fold}"
    if trained:
        change += f"; trained with {before.batch_size}: fold {', '.join(map(str, trained))}"
    smaller = before.model_copy(update={"batch_size": batch})
    run.revise(
        plan.model_copy(
            update={"configurations": plan.configurations | {name: smaller}, "changes": (*plan.changes, change)}
        )
    )
    for other in trained:
        path = run.present.fold_folder(name, other) / "manifest.json"
        manifest = FoldManifest.load(path)
        manifest.model_copy(update={"made_from": run.present.fold_origin(name, other)}).save(path)
    for other, checkpoint in checkpoints.items():
        run.present.begin(name, other, times[other])
        if checkpoint.exists():
            checkpoint.rename(_checkpoints(run, name, other))


def _checkpoints(run: Run, name: ConfigurationName, fold: int) -> Path:
    return checkpoint_folder(run.present.fold_folder(name, fold), training_task(run, name, fold))


def time_step(run: Run, name: ConfigurationName, configuration: Configuration) -> float:
    """Seconds of one training step of a configuration on this device; infinite where memory does not suffice."""
    plan = run.base_plan.model_copy(update={"configurations": {name: configuration}})
    task = TrainingTask(
        name=name,
        labels=plan.labels,
        topology=plan.topology(name),
        configuration=configuration,
        recipe=run.request.recipe,
        training_cases=(),
        validation_cases=(),
        seed=0,
    )
    try:
        return measure_step(task, run.device)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    release_memory()
    return math.inf


def estimate_step(run: Run, name: ConfigurationName, configuration: Configuration) -> float:
    """The same; but where a step would take very long, a narrow network is measured and its time scaled."""
    narrow = configuration.with_width(min(_NARROW, configuration.base_features))
    if narrow == configuration:
        return time_step(run, name, configuration)
    sizes = [
        multiplications(
            run.base_plan.model_copy(update={"configurations": {name: item}}).topology(name), item.patch_size
        )
        for item in (narrow, configuration)
    ]
    scaled = time_step(run, name, narrow) * sizes[1] / sizes[0]
    # Narrow networks are less efficient, so this is more than it will be.
    return scaled if scaled > _LONG_STEP_SECONDS else time_step(run, name, configuration)


def fitting_step(run: Run, name: ConfigurationName, configuration: Configuration) -> float:
    """Seconds of a step as `estimate_step` has them; the batch is halved once where memory does not suffice."""
    seconds = estimate_step(run, name, configuration)
    if not math.isinf(seconds):
        return seconds
    _halve_batch(run, name, run.folds_of(name)[0], "a trial step did not fit.")
    seconds = estimate_step(run, name, run.settings[0].configurations[name])
    if math.isinf(seconds):
        raise TrainingError(f"{_out_of_memory(run, name, 'a trial step did not fit.')} {_LESS_MEMORY}")
    return seconds


def announce(run: Run) -> dict[ConfigurationName, int]:
    """Say what the trainings that are left will take on this device, and what to do if that is too long.

    Returns:
        how many are left of each configuration that is not finished.
    """
    plan, recipe = run.settings
    left: dict[ConfigurationName, int] = {
        name: len({*run.folds_of(name)} - {*run.present.trained(name)}) for name in run.configurations
    }
    left = {name: count for name, count in left.items() if count}
    if not left:
        return left
    seconds = training_seconds(plan, recipe, left, partial(fitting_step, run))
    run.listener.say(
        f"Training {sum(left.values())} model{'s' * (sum(left.values()) > 1)} on {run.device}: "
        f"{words(seconds)} at most."
    )
    if seconds > 48 * 3600:
        run.listener.warn(
            "That is the paper's schedule on this device. For less: --budget 2h (all in that time), --epochs 50, "
            "--configurations 3d (fewer models), --folds 0 (one fold), or a machine with a GPU."
        )
    return left

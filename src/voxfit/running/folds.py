"""The trainings of a run: one fold of one configuration each, made or found."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import safetensors.torch
from numpy.typing import NDArray

from voxfit.core.records import Record, digest_of, write_atomically
from voxfit.learning.sampling import Previous
from voxfit.learning.training import Training, TrainingTask, measure_step
from voxfit.planning.plan import Configuration, ConfigurationName
from voxfit.planning.stages import multiplications
from voxfit.preprocessing.normalization import masked_channels
from voxfit.running.budget import training_seconds, words

if TYPE_CHECKING:
    from voxfit.running.pipeline import Run


_NARROW = 8
"""Feature maps of the network that is measured where the planned one is slow."""
_LONG_STEP_SECONDS = 60.0


class FoldManifest(Record):
    """A finished training."""

    schema_name: ClassVar[str] = "voxfit.fold/1"
    made_from: str
    epochs: int
    seconds: float
    validation_cases: tuple[str, ...]


def training_task(run: Run, name: ConfigurationName, fold: int) -> TrainingTask:
    """What is trained on one fold."""
    plan, recipe = run.settings
    return TrainingTask(
        name=f"{name} fold {fold}",
        labels=plan.labels,
        topology=plan.topology(name),
        configuration=plan.configurations[name],
        recipe=recipe,
        training_cases=run.folds.training(fold),
        validation_cases=run.folds.validation[fold],
        seed=int(digest_of([recipe.seed, name, fold])[:8], 16),
        masked_channels=masked_channels(plan.normalization),
    )


def fold_origin(run: Run, name: ConfigurationName, fold: int) -> str:
    """Digest of what determines the weights of a fold."""
    plan, _ = run.settings
    previous = plan.configurations[name].previous
    stage = [fold_origin(run, previous, other) for other in run.folds_of(previous)] if previous else []
    return digest_of([training_task(run, name, fold).digest(), plan.grid(name).digest(), run.files, stage])


def fold_folder(run: Run, name: ConfigurationName, fold: int) -> Path:
    """Where a fold is trained; `weights.safetensors` is there once it is finished."""
    return run.root / name / f"fold_{fold}"


def is_trained(run: Run, name: ConfigurationName, fold: int) -> bool:
    """Whether the weights of a fold are there and fit the plan."""
    path = fold_folder(run, name, fold) / "manifest.json"
    return path.exists() and FoldManifest.load(path).made_from == fold_origin(run, name, fold)


def previous_stage(run: Run, name: ConfigurationName) -> Previous | None:
    """The out-of-fold segmentations of the stage before a configuration, where it has one."""
    plan, _ = run.settings
    before = plan.configurations[name].previous
    if before is None:
        return None
    folder = run.root / before / "cross_validation" / "next_stage"

    def segmentation(case: str) -> NDArray[np.int16]:
        found: NDArray[np.int16] = np.load(folder / f"{case}.npy", mmap_mode="r")
        return found

    return Previous(segmentation, plan.labels.count - 1)


def train(run: Run, name: ConfigurationName, fold: int) -> Path:
    """The trained weights of one fold."""
    folder = fold_folder(run, name, fold)
    weights = folder / "weights.safetensors"
    if is_trained(run, name, fold):
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)  # a kill may have come before the one below
        return weights
    if (folder / "manifest.json").exists():
        run.listener.say(f"{name} fold {fold} was trained with other settings; it is kept under superseded/.")
        run.workspace.set_aside(folder)
    plan, _ = run.settings
    task = training_task(run, name, fold)
    run.listener.stage(f"Training {task.name}")
    training = Training(task, run.store(plan.grid(name)), folder, run.device, run.listener, previous_stage(run, name))
    network = training.run()
    write_atomically(weights, safetensors.torch.save(network.inference_weights()))
    FoldManifest(
        made_from=fold_origin(run, name, fold),
        epochs=training.progress.epoch,
        seconds=round(training.progress.seconds, 1),
        validation_cases=task.validation_cases,
    ).save(folder / "manifest.json")
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    return weights


def time_step(run: Run, name: ConfigurationName, configuration: Configuration) -> float:
    """Seconds of one training step of a configuration on this device."""
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
    return measure_step(task, run.device)


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


def announce(run: Run) -> None:
    """Say what the trainings that are left will take on this device, and what to do if that is too long."""
    plan, recipe = run.settings
    left: dict[ConfigurationName, int] = {
        name: sum(not is_trained(run, name, fold) for fold in run.folds_of(name)) for name in run.configurations
    }
    left = {name: count for name, count in left.items() if count}
    if not left:
        return
    seconds = training_seconds(plan, recipe, left, partial(estimate_step, run))
    run.listener.say(
        f"Training {sum(left.values())} model{'s' * (sum(left.values()) > 1)} on {run.device}: "
        f"{words(seconds)} at most."
    )
    if seconds > 48 * 3600:
        run.listener.warn(
            "That is the paper's schedule on this device. For less: --budget 2h (all in that time), --epochs 50, "
            "--configurations 3d (fewer models), --folds 0 (one fold), or a machine with a GPU."
        )

"""What is trained, its loss, what a step of it costs on a device, and how its steps are executed there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch

from voxfit.core.extensions import extension
from voxfit.core.progress import Listener
from voxfit.imaging.labels import Labels
from voxfit.learning.engine import PLAIN, Engine, StepMode, choose_execution, is_out_of_memory
from voxfit.learning.losses import Loss, segmentation_loss, shrunk
from voxfit.planning.architecture import Topology
from voxfit.planning.identity import digest_of_training
from voxfit.planning.plan import Configuration
from voxfit.planning.recipes import DICE_CROSS_ENTROPY, Recipe

_MEASURED_SECONDS = 1.0


@dataclass(frozen=True)
class TrainingTask:
    """What to train.

    Attributes:
        name: for people, "3d fold 0".
        labels, topology, configuration, recipe: all settings.
        training_cases, validation_cases: names in the store.
        seed: of the initial weights and of everything drawn while training.
        masked_channels: those that are normalised inside the nonzero mask.
    """

    name: str
    labels: Labels
    topology: Topology
    configuration: Configuration
    recipe: Recipe
    training_cases: tuple[str, ...]
    validation_cases: tuple[str, ...]
    seed: int
    masked_channels: tuple[int, ...] = ()

    def digest(self) -> str:
        """Changes when a checkpoint of this training could not be continued."""
        return digest_of_training(
            self.labels,
            self.topology,
            self.configuration,
            self.recipe,
            training_cases=self.training_cases,
            validation_cases=self.validation_cases,
            seed=self.seed,
            masked_channels=self.masked_channels,
        )


def checkpoint_folder(folder: Path, task: TrainingTask) -> Path:
    """Where the checkpoints of a task lie, below the folder of its training."""
    return folder / "checkpoint" / task.digest()


def task_loss(task: TrainingTask, levels: list[torch.Tensor], label: torch.Tensor) -> torch.Tensor:
    """The loss of a batch, summed over the levels that have one.

    Args:
        task: labels, kind of Dice, smoothing.
        levels: (batch, output, *shape) logits, full resolution first.
        label: (batch, *patch) class indices.
    """
    loss: Loss = segmentation_loss if task.recipe.loss == DICE_CROSS_ENTROPY else extension("loss", task.recipe.loss)
    losses = [
        loss(
            logits.float(),
            shrunk(label, logits.shape[2:]),
            task.labels,
            per_sample=task.configuration.dice == "sample",
            smoothing=task.recipe.dice_smoothing,
        )
        for logits in levels
    ]
    weights = [0.5**level for level in range(len(levels))]
    total = losses[0] * weights[0]
    for other, weight in zip(losses[1:], weights[1:], strict=True):
        total = total + other * weight
    return total / sum(weights)


def measure_step(task: TrainingTask, device: str, execution: StepMode = PLAIN) -> float:
    """Seconds of one training step on a device (network, loss, gradients, update), after one step to warm up.

    Short steps are repeated for about a second, and the fastest counts.
    """
    engine = Engine(task.topology, task.recipe, 0, device, execution)
    shape = (task.configuration.batch_size, *task.configuration.patch_size)
    image = torch.randn(shape[0], task.topology.in_channels, *shape[1:], device=engine.device)
    label = torch.zeros(shape, dtype=torch.long, device=engine.device)
    times: list[float] = []
    while len(times) < 2 or sum(times[1:]) < _MEASURED_SECONDS:
        begun = perf_counter()
        engine.update(task_loss(task, engine.levels(image), label))
        engine.synchronize()
        times.append(perf_counter() - begun)
    return min(times[1:])


def start_engine(
    task: TrainingTask, folder: Path, device: str, listener: Listener, known: StepMode | None = None
) -> Engine:
    """The engine of a training, which executes steps as it did before, or as other folds do, or as it finds best.

    Args:
        task: what is trained.
        folder: of the training; gets `execution.json`.
        device: "cpu", "cuda" or "mps".
        listener: hears what was found, and what does not work.
        known: the way of other folds; None to find it.
    """
    path, chosen, said = folder / "execution.json", known or PLAIN, ""
    if path.exists() and any(checkpoint_folder(folder, task).glob("*")):
        chosen = StepMode.load(path)
    elif known is None:
        chosen, said = choose_execution(task.recipe, lambda way: measure_step(task, device, way), listener.warn, device)
    if said:
        listener.say(f"{task.name}: {said}.")
    elif chosen.compiled and not _compiles(task, device, chosen, listener):
        chosen = chosen.revised(compiled=False)
    chosen.save(path)
    return Engine(task.topology, task.recipe, task.seed, device, chosen)


def _compiles(task: TrainingTask, device: str, chosen: StepMode, listener: Listener) -> bool:
    """Whether a way that was chosen before, perhaps elsewhere, works here."""
    try:
        measure_step(task, device, chosen)
    except Exception as error:  # whatever a compiler raises
        if is_out_of_memory(error):
            raise
        listener.warn(
            f"{task.name} was trained compiled, which does not work here ({type(error).__name__}). It goes on without; "
            "its weights will differ in their last digits from those of an uninterrupted training."
        )
        return False
    return True

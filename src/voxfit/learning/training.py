"""The training loop of one model on one fold (method.md [T2]-[T5]); it knows no inference."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import lightning_fabric
import torch

from voxfit.core.listening import EpochReport, Listener
from voxfit.core.records import digest_of, write_atomically
from voxfit.imaging.labels import Labels
from voxfit.learning.checkpoint import load_checkpoint, save_checkpoint
from voxfit.learning.losses import overlaps, segmentation_loss, shrunk
from voxfit.learning.sampling import TRAINING, VALIDATION, PatchSampler, Prefetcher, Previous, Sample
from voxfit.learning.schedule import advance, annealed_rate, begin
from voxfit.networks.unet import UNet, build_network
from voxfit.planning.plan import Configuration
from voxfit.planning.recipe import SGD, Adam, Annealed, Plateau, Recipe
from voxfit.planning.stages import Topology
from voxfit.preprocessing.store import Store


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
        settings = self.configuration.model_dump(mode="json", exclude={"why"})
        return digest_of(
            [
                self.labels.digest(),
                self.topology.digest(),
                settings,
                self.recipe.digest(),
                self.training_cases,
                self.validation_cases,
                self.seed,
                self.masked_channels,
            ]
        )


_MEASURED_SECONDS = 1.0


def make_fabric(device: str) -> lightning_fabric.Fabric:
    """The device and its precision: bf16 where a GPU has it, else float32 (CPUs lose by bf16)."""
    cuda = device.startswith("cuda")
    return lightning_fabric.Fabric(
        accelerator="cuda" if cuda else device,
        devices=1,
        precision="bf16-mixed" if cuda and torch.cuda.is_bf16_supported() else "32-true",
    )


def make_optimizer(network: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser of a recipe; the default is Adam as the paper has it (method.md [T3])."""
    rate, parameters = recipe.schedule.learning_rate, network.parameters()
    match recipe.optimizer:
        case Adam(weight_decay=decay, amsgrad=amsgrad):
            return torch.optim.Adam(parameters, rate, weight_decay=decay, amsgrad=amsgrad)
        case SGD(weight_decay=decay, momentum=momentum):
            return torch.optim.SGD(parameters, rate, momentum, weight_decay=decay, nesterov=momentum > 0)


class Training:
    """One training, resumable after every epoch.

    Args:
        task: what to train.
        store: the prepared cases.
        folder: gets `history.jsonl` and, while unfinished, `checkpoint/`.
        device: "cpu", "cuda" or "mps".
        listener: hears of every epoch.
        previous: the stage before, where there is one.
    """

    def __init__(
        self,
        task: TrainingTask,
        store: Store,
        folder: Path,
        device: str,
        listener: Listener,
        previous: Previous | None = None,
    ) -> None:
        self.task = task
        self.folder = folder
        self.listener = listener
        self.previous = previous
        self.fabric = make_fabric(device)
        self.network = build_network(task.topology, task.seed, deep_supervision=task.recipe.deep_supervision)
        model, optimizer = self.fabric.setup(self.network, make_optimizer(self.network, task.recipe))
        self.model, self.optimizer = model, optimizer
        self.samplers = {
            TRAINING: self._sampler(store, task.training_cases),
            VALIDATION: self._sampler(store, task.validation_cases),
        }
        self.progress = begin(task.recipe.schedule)

    def run(self) -> UNet:
        """Train to the end of the schedule, from the newest checkpoint where there is one; returns the network."""
        self._resume()
        while not self.progress.finished:
            report = self._epoch()
            save_checkpoint(self._checkpoints, self.network, self.optimizer, self.progress)
            self.listener.epoch(report)
        return self.network

    @property
    def _by_epoch(self) -> bool:
        schedule = self.task.recipe.schedule
        return isinstance(schedule, Annealed) and schedule.every == "epoch"

    @property
    def _checkpoints(self) -> Path:
        return self.folder / "checkpoint" / self.task.digest()

    def _sampler(self, store: Store, cases: Sequence[str]) -> PatchSampler:
        task, previous = self.task, self.previous
        return PatchSampler(
            store,
            cases,
            task.configuration,
            task.recipe,
            labels=task.labels,
            channels=task.topology.in_channels - (previous.classes if previous else 0),
            seed=task.seed,
            previous=previous,
        )

    def _resume(self) -> None:
        found, warnings = load_checkpoint(self._checkpoints, self.network, self.optimizer)
        for warning in warnings:
            self.listener.warn(warning)
        if found:
            self.progress = found
            self.listener.say(f"{self.task.name}: goes on after epoch {found.epoch}.")
        history = self.folder / "history.jsonl"
        lines = history.read_text().splitlines()[: self.progress.epoch] if history.exists() else []
        write_atomically(history, "".join(line + "\n" for line in lines).encode())

    def _epoch(self) -> EpochReport:
        recipe, number = self.task.recipe, self.progress.epoch
        begun = perf_counter()
        loader = Prefetcher(self.samplers[TRAINING])
        try:
            losses = self._train(loader, begun)
        finally:
            loader.close()
        training_loss = float(torch.stack(losses).mean())
        validation_loss, class_dice = self._validate()
        seconds = perf_counter() - begun
        rate = float(self.optimizer.param_groups[0]["lr"])
        self.progress = advance(recipe.schedule, self.progress, training_loss, validation_loss, seconds)
        done = self._share_done(0.0, 0)
        report = EpochReport(
            model=self.task.name,
            epoch=number + 1,
            training_loss=training_loss,
            validation_loss=validation_loss,
            class_dice=class_dice,
            learning_rate=rate,
            seconds=seconds,
            steps_per_second=len(losses) / seconds,
            wait_share=loader.waited / seconds,
            share_done=1.0 if self.progress.finished else done,
            seconds_left=0.0 if self.progress.finished else self.progress.seconds * (1 - done) / max(done, 1e-9),
        )
        self._record(report, len(losses))
        return report

    def _train(self, loader: Prefetcher, begun: float) -> list[torch.Tensor]:
        """The training steps of one epoch; ends early when the time of a timed schedule is over."""
        self.model.train()
        losses: list[torch.Tensor] = []
        epoch, steps = self.progress.epoch, self.task.recipe.steps_per_epoch
        for step, samples in enumerate(loader.batches(TRAINING, epoch, steps)):
            share = self._share_done(perf_counter() - begun, step)
            if share >= 1 and losses:
                break
            self._set_rate(self._share_done(0.0, 0) if self._by_epoch else share, epoch * steps + step)
            self.optimizer.zero_grad(set_to_none=True)
            loss = self._loss(samples)[0]
            self.fabric.backward(loss)
            if self.task.recipe.largest_gradient:
                torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.task.recipe.largest_gradient)
            self.optimizer.step()
            losses.append(loss.detach())
        return losses

    def _share_done(self, seconds: float, steps: int) -> float:
        """Share of the training that is done, `steps` and `seconds` into the current epoch."""
        schedule, progress = self.task.recipe.schedule, self.progress
        if isinstance(schedule, Annealed) and schedule.seconds:
            return min((progress.seconds + seconds) / schedule.seconds, 1.0)
        return min((progress.epoch + steps / self.task.recipe.steps_per_epoch) / (schedule.epochs or 1), 1.0)

    def _set_rate(self, share: float, step: int) -> None:
        schedule = self.task.recipe.schedule
        rate = self.progress.learning_rate if isinstance(schedule, Plateau) else annealed_rate(schedule, share, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _loss(self, samples: list[Sample]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Loss, logits and labels of a batch."""
        image, label = self.samplers[TRAINING].finish(samples, self.fabric.device, self.task.masked_channels)
        outputs = self.model(image)
        levels = outputs if isinstance(outputs, list) else [outputs]
        return task_loss(self.task, levels, label), levels[0], label

    @torch.inference_mode()
    def _validate(self) -> tuple[float, list[float | None]]:
        """Mean loss and Dice of each structure over the validation patches; the same patches after every epoch."""
        self.model.eval()
        loader = Prefetcher(self.samplers[VALIDATION])
        losses: list[float] = []
        counts = torch.zeros(2, len(self.task.labels.names), dtype=torch.float64)
        try:
            for samples in loader.batches(VALIDATION, 0, self.task.recipe.validation_steps):
                loss, logits, label = self._loss(samples)
                losses.append(float(loss))
                counts += overlaps(logits, label, self.task.labels).cpu()
        finally:
            loader.close()
        dice = [float(hits / size) if size else None for hits, size in counts.T.tolist()]
        return sum(losses) / len(losses), dice

    def _record(self, report: EpochReport, steps: int) -> None:
        line = {
            "epoch": report.epoch,
            "training_loss": round(report.training_loss, 6),
            "validation_loss": round(report.validation_loss, 6),
            "validation_dice": [None if value is None else round(value, 5) for value in report.class_dice],
            "learning_rate": report.learning_rate,
            "steps": steps,
            "seconds": round(report.seconds, 3),
            "wait_share": round(report.wait_share, 4),
        }
        with (self.folder / "history.jsonl").open("a") as stream:
            stream.write(json.dumps(line) + "\n")


def task_loss(task: TrainingTask, levels: list[torch.Tensor], label: torch.Tensor) -> torch.Tensor:
    """The loss of a batch, summed over the levels that have one.

    Args:
        task: labels, kind of Dice, smoothing.
        levels: (batch, output, *shape) logits, full resolution first.
        label: (batch, *patch) class indices.
    """
    losses = [
        segmentation_loss(
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
    for loss, weight in zip(losses[1:], weights[1:], strict=True):
        total = total + loss * weight
    return total / sum(weights)


def measure_step(task: TrainingTask, device: str) -> float:
    """Seconds of one training step on a device (network, loss, gradients, update), after one step to warm up.

    Short steps are repeated for about a second, and the fastest counts.
    """
    fabric = make_fabric(device)
    network = build_network(task.topology, 0, deep_supervision=task.recipe.deep_supervision)
    model, optimizer = fabric.setup(network, make_optimizer(network, task.recipe))
    shape = (task.configuration.batch_size, *task.configuration.patch_size)
    image = torch.randn(shape[0], task.topology.in_channels, *shape[1:], device=fabric.device)
    label = torch.zeros(shape, dtype=torch.long, device=fabric.device)
    times: list[float] = []
    while len(times) < 2 or sum(times[1:]) < _MEASURED_SECONDS:
        begun = perf_counter()
        optimizer.zero_grad(set_to_none=True)
        outputs = model(image)
        fabric.backward(task_loss(task, outputs if isinstance(outputs, list) else [outputs], label))
        optimizer.step()
        if fabric.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(perf_counter() - begun)
    return min(times[1:])

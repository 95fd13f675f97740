"""The training loop of one model on one fold (method.md [T2]-[T5]); it knows no inference."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from time import perf_counter

import torch

from voxfit.core.errors import TrainingError
from voxfit.core.interruption import Pending, deferred
from voxfit.core.progress import EpochReport, Listener
from voxfit.learning.checkpoint import load_checkpoint, save_checkpoint
from voxfit.learning.engine import StepMode, peak_flops
from voxfit.learning.history import cut_history, record_epoch
from voxfit.learning.losses import overlaps
from voxfit.learning.prefetch import Batch, BatchError, Prefetcher, resident
from voxfit.learning.sampling import TRAINING, VALIDATION, PatchSampler, Previous
from voxfit.learning.schedule import advance, begin, polynomial_rate
from voxfit.learning.task import TrainingTask, checkpoint_folder, start_engine, task_loss
from voxfit.planning.architecture import multiplications
from voxfit.planning.recipes import Plateau, PolynomialDecay
from voxfit.planning.settings import given_seconds
from voxfit.preprocessing.store import Store

_CHECKPOINT_SECONDS = 600.0
"""An epoch that takes longer is saved in between: that much is lost at most when the process is killed."""
_FAILURES = 3
"""Steps in a row without a finite loss that end a training."""


class Training:
    """One training. It can be interrupted after any step, and goes on from there as if it had not been.

    Args:
        task: what to train.
        store: the prepared cases.
        folder: gets `history.jsonl`, `execution.json` and, while unfinished, `checkpoint/`.
        device: "cpu", "cuda" or "mps".
        listener: hears of every epoch.
        previous: the stage before, where there is one.
        execution: the way of executing steps that was found for other folds; None to find it.
    """

    def __init__(
        self,
        task: TrainingTask,
        store: Store,
        folder: Path,
        device: str,
        listener: Listener,
        previous: Previous | None = None,
        execution: StepMode | None = None,
    ) -> None:
        self.task = task
        self.folder = folder
        self.device = device
        self.listener = listener
        self.previous = previous
        self.progress = begin(task.recipe.schedule)
        begun = perf_counter()
        self.engine = start_engine(task, folder, device, listener, execution)
        if given_seconds(task.recipe):
            self.progress = self.progress.model_copy(update={"seconds": perf_counter() - begun})
        self.network = self.engine.network
        channels = task.topology.in_channels - (previous.classes if previous else 0)
        cases = (*task.training_cases, *task.validation_cases)
        patches = resident(store, cases, channels, self.engine.device)
        self.samplers = {
            stream: PatchSampler(
                store,
                names,
                task.configuration,
                task.recipe,
                labels=task.labels,
                channels=channels,
                seed=task.seed,
                masked_channels=task.masked_channels,
                previous=previous,
                patches=patches,
            )
            for stream, names in ((TRAINING, task.training_cases), (VALIDATION, task.validation_cases))
        }
        self._loaders: dict[int, Prefetcher] = {}
        self._saved = perf_counter()
        self._measured = perf_counter(), 0.0
        self._speed_reported = False

    def run(self) -> torch.nn.Module:
        """Train to the end of the schedule, from the newest checkpoint where there is one; returns the network.

        Raises:
            TrainingError: losses are not finite, or patches cannot be made.
            Interrupted: a signal came; a checkpoint was written.
        """
        self._resume()
        self._loaders = {
            stream: Prefetcher(sampler, self.engine.device, retried=self._warn_of)
            for stream, sampler in self.samplers.items()
        }
        try:
            with deferred() as interruption:
                while not self.progress.finished and not interruption:
                    report = self._epoch(interruption)
                    if report:
                        self._report_speed(report)
                        self.listener.epoch(report)
        finally:
            for loader in self._loaders.values():
                loader.close()
        return self.network

    @property
    def _by_epoch(self) -> bool:
        schedule = self.task.recipe.schedule
        return isinstance(schedule, PolynomialDecay) and schedule.every == "epoch"

    @property
    def _checkpoints(self) -> Path:
        return checkpoint_folder(self.folder, self.task)

    def _resume(self) -> None:
        found, warnings = load_checkpoint(self._checkpoints, self.network, self.engine.optimizer)
        for warning in warnings:
            self.listener.warn(warning)
        if found:
            self.progress = found
            within = f", step {found.step} of epoch {found.epoch + 1}" if found.step else ""
            self.listener.say(f"{self.task.name}: goes on after epoch {found.epoch}{within}.")
        cut_history(self.folder, self.progress.epoch)

    def _epoch(self, interruption: Pending) -> EpochReport | None:
        """One epoch, or what is left of it; None where an interruption ended it, and then a checkpoint is there."""
        self._measured = perf_counter(), self._waited
        try:
            self._train(interruption)
            validated = None if interruption else self._validate(interruption)
        except BatchError as error:
            self._measure()
            self._save()
            raise TrainingError(
                f"{self._sentences(error)} A second attempt failed, too, so the training stops. A checkpoint was "
                "written: run the same command again to go on from there."
            ) from error
        self._measure()
        if validated is None:
            self._save()
            return None
        if not self.progress.losses:
            raise TrainingError(f"{self.task.name}: no step of epoch {self.progress.epoch + 1} had a finite loss.")
        validation_loss, class_dice = validated
        training_loss = sum(self.progress.losses) / len(self.progress.losses)
        total, pace = self.progress.step, self.progress.pace
        self.progress = advance(self.task.recipe.schedule, self.progress, training_loss, validation_loss, pace.seconds)
        done = 1.0 if self.progress.finished else self._share_done(0.0, 0)
        speed = pace.steps * self._step_operations / pace.training_seconds if pace.steps else None
        report = EpochReport(
            model=self.task.name,
            epoch=self.progress.epoch,
            training_loss=training_loss,
            validation_loss=validation_loss,
            class_dice=class_dice,
            learning_rate=pace.learning_rate,
            seconds=pace.seconds,
            steps_per_second=pace.steps / pace.seconds if pace.steps else None,
            wait_share=pace.waited / pace.seconds,
            share_done=done,
            seconds_left=self.progress.seconds * (1 - done) / max(done, 1e-9),
            teraflops=None if speed is None else speed / 1e12,
            peak_share=None if speed is None else speed / peak_flops(self.device),
        )
        # The history comes first: where it is longer than the training, the rest is cut off.
        record_epoch(self.folder, report, total)
        self._save()
        return report

    def _warn_of(self, error: BatchError) -> None:
        self.listener.warn(f"{self._sentences(error)} A second attempt was successful.")

    def _sentences(self, error: BatchError) -> str:
        """Where in the training a batch could not be made, of what, and why."""
        kind = "step" if error.stream == TRAINING else "validation step"
        where = f"{self.task.name}, epoch {self.progress.epoch + 1}, {kind} {error.step + 1}"
        return f"{where}: the patches of {', '.join(error.cases) or 'a batch'} could not be made. {error.reason}"

    def _measure(self, rate: float | None = None) -> None:
        """Count the time since the last call. `rate`: of the training step that was taken in it, if one was."""
        now, waited, pace = perf_counter(), self._waited, self.progress.pace
        pace = pace.plus(now - self._measured[0], waited - self._measured[1], rate)
        self.progress = self.progress.model_copy(update={"pace": pace})
        self._measured = now, waited

    @property
    def _waited(self) -> float:
        """Seconds without a batch up to now."""
        return sum(loader.waited for loader in self._loaders.values())

    @property
    def _step_operations(self) -> int:
        """Of forward pass and gradients; a product and its sum count two."""
        configuration = self.task.configuration
        return 6 * multiplications(self.task.topology, configuration.patch_size) * configuration.batch_size

    def _report_speed(self, report: EpochReport) -> None:
        if self._speed_reported or report.teraflops is None or report.peak_share is None:
            return
        self.listener.say(
            f"{self.task.name}: {report.teraflops:.3g} TFLOP/s, {report.peak_share:.0%} of what a convolution of "
            f"many channels reaches on this device; {report.wait_share:.1%} of the time waiting for batches."
        )
        self._speed_reported = True

    def _train(self, interruption: Pending) -> None:
        """The training steps of one epoch, from the one in `progress` on.

        It ends early when the time of a timed schedule is over, and after the step in which an interruption comes.
        """
        self.network.train()
        epoch, steps = self.progress.epoch, self.task.recipe.steps_per_epoch
        validating = partial(self._loaders[VALIDATION].begin, VALIDATION, 0, self.task.recipe.validation_steps)
        for batch in self._loaders[TRAINING].batches(TRAINING, epoch, steps, self.progress.step, validating):
            step = self.progress.step
            share = self._share_done(self.progress.pace.seconds + perf_counter() - self._measured[0], step)
            if share >= 1 and self.progress.losses:
                break
            rate = self._set_rate(self._share_done(0.0, 0) if self._by_epoch else share, epoch * steps + step)
            self._step(batch)
            self._measure(rate)
            if interruption:
                break
            if perf_counter() - self._saved > _CHECKPOINT_SECONDS:
                self._save()

    def _step(self, batch: Batch) -> None:
        """One step; skipped, with a warning, where loss or gradient are not finite.

        Raises:
            TrainingError: for the third time in a row.
        """
        loss = task_loss(self.task, self.engine.levels(batch.image), batch.label)
        updated = self.engine.update(loss)
        before = self.progress
        losses = (*before.losses, float(loss.detach())) if updated else before.losses
        failures = 0 if updated else before.failures + 1
        self.progress = before.model_copy(update={"step": before.step + 1, "losses": losses, "failures": failures})
        if updated:
            return
        where = f"{self.task.name}, epoch {before.epoch + 1}, step {before.step + 1}"
        cases = ", ".join(sorted(set(batch.cases)))
        self.listener.warn(f"{where}: the loss or its gradient is not finite; the step is skipped. Its cases: {cases}.")
        if failures >= _FAILURES:
            raise TrainingError(
                f"{where}: {failures} steps in a row had no finite loss, so the training stops; its last good "
                f"checkpoint is kept in {self._checkpoints}. Look at the images of {cases} for extreme values, or "
                "lower the learning rate in a recipe file."
            )

    def _save(self) -> None:
        """Write a checkpoint."""
        save_checkpoint(self._checkpoints, self.network, self.engine.optimizer, self.progress)
        self._saved = perf_counter()

    def _share_done(self, seconds: float, steps: int) -> float:
        """Share of the training that is done, `steps` and `seconds` into the current epoch."""
        recipe, progress = self.task.recipe, self.progress
        if whole := given_seconds(recipe):
            return min((progress.seconds + seconds) / whole, 1.0)
        return min((progress.epoch + steps / recipe.steps_per_epoch) / (recipe.schedule.epochs or 1), 1.0)

    def _set_rate(self, share: float, step: int) -> float:
        schedule = self.task.recipe.schedule
        rate = self.progress.learning_rate if isinstance(schedule, Plateau) else polynomial_rate(schedule, share, step)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        return rate

    @torch.inference_mode()
    def _validate(self, interruption: Pending) -> tuple[float, list[float | None]] | None:
        """Mean loss and Dice of each structure over the validation patches, the same after every epoch.

        None where an interruption came.
        """
        self.network.eval()
        losses: list[float] = []
        counts = torch.zeros(2, len(self.task.labels.names), dtype=torch.float64)
        loader, steps = self._loaders[VALIDATION], self.task.recipe.validation_steps
        for batch in loader.batches(VALIDATION, 0, steps, then=self._begin_next):
            logits = self.engine.logits(batch.image)
            loss = float(task_loss(self.task, [logits], batch.label))
            losses += [loss] if math.isfinite(loss) else []
            counts += overlaps(logits, batch.label, self.task.labels).cpu()
            if interruption:
                return None
        if not losses:
            raise TrainingError(
                f"{self.task.name}: no validation patch of epoch {self.progress.epoch + 1} has a finite loss."
            )
        dice = [float(hits / size) if size else None for hits, size in counts.T.tolist()]
        return sum(losses) / len(losses), dice

    def _begin_next(self) -> None:
        """Begin the batches of the next epoch, where there will be one."""
        steps = self.task.recipe.steps_per_epoch
        if self._share_done(0.0, steps) < 1:
            self._loaders[TRAINING].begin(TRAINING, self.progress.epoch + 1, steps)

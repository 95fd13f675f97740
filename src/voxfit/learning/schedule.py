"""Learning rates and the end of training: plain functions on a small record that checkpoints hold."""

from __future__ import annotations

import math

from voxfit.core.records import Record
from voxfit.planning.recipes import Plateau, PolynomialDecay


class Pace(Record):
    """What was measured of the unfinished epoch, before and after interruptions.

    Attributes:
        steps: training steps that were timed.
        training_seconds: these took, waiting for their batches included.
        seconds: all that was done took.
        waited: of these, without a batch.
        learning_rate: of the last step; None before the first.
    """

    steps: int = 0
    training_seconds: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0
    learning_rate: float | None = None

    def plus(self, seconds: float, waited: float, rate: float | None = None) -> Pace:
        """And so many seconds more; `rate` is that of the training step that took them, if one did."""
        stepped = rate is not None
        return Pace(
            steps=self.steps + stepped,
            training_seconds=self.training_seconds + seconds * stepped,
            seconds=self.seconds + seconds,
            waited=self.waited + waited,
            learning_rate=rate if stepped else self.learning_rate,
        )


class Progress(Record):
    """Where a training stands, after `epoch` finished epochs and `step` steps of the next.

    Attributes:
        epoch: finished epochs.
        steps: of the finished epochs, those that were skipped included; the last of a timed training may be short.
        step: steps of the unfinished epoch, in the same way.
        losses: of the steps of the unfinished epoch that were not skipped.
        failures: steps in a row, up to now, that were skipped because a loss or gradient was not finite.
        seconds: the finished epochs took, interruptions not counted.
        pace: of the unfinished epoch.
        learning_rate: of the plateau schedule.
        training_average, validation_average: exponential moving averages of the losses [T4].
        best_training, best_validation: the averages that later ones must beat.
        drop_wait, stop_wait: epochs since they were beaten (or since the last drop).
        finished: the schedule has ended.
    """

    epoch: int = 0
    steps: int = 0
    step: int = 0
    losses: tuple[float, ...] = ()
    failures: int = 0
    seconds: float = 0.0
    pace: Pace = Pace()  # empty in checkpoints that know of none
    learning_rate: float
    training_average: float | None = None
    validation_average: float | None = None
    best_training: float | None = None
    best_validation: float | None = None
    drop_wait: int = 0
    stop_wait: int = 0
    finished: bool = False


def begin(schedule: Plateau | PolynomialDecay) -> Progress:
    """The progress of a training that has not begun."""
    return Progress(learning_rate=schedule.learning_rate)


def polynomial_rate(schedule: PolynomialDecay, share_done: float, step: int) -> float:
    """Learning rate of one step.

    Args:
        schedule: its numbers.
        share_done: of the whole training, 0 to 1.
        step: training steps taken before this one.
    """
    warm = min((step + 1) / schedule.warmup_steps, 1.0) if schedule.warmup_steps else 1.0
    return schedule.learning_rate * warm * math.pow(max(1.0 - share_done, 0.0), schedule.power)


def advance(
    schedule: Plateau | PolynomialDecay, before: Progress, training_loss: float, validation_loss: float, seconds: float
) -> Progress:
    """The progress after one more epoch.

    Args:
        schedule: its numbers.
        before: the progress up to this epoch.
        training_loss, validation_loss: means of the epoch.
        seconds: the epoch took.
    """
    epoch, total = before.epoch + 1, before.seconds + seconds
    changes = {
        "epoch": epoch,
        "steps": before.steps + before.step,
        "step": 0,
        "losses": (),
        "failures": before.failures,
        "seconds": total,
        "pace": Pace(),
    }
    match schedule:
        case PolynomialDecay():
            over = epoch >= schedule.epochs if schedule.epochs else total >= (schedule.seconds or 0)
            return before.model_copy(update=changes | {"finished": over})
        case Plateau():
            return _plateau(schedule, before, training_loss, validation_loss).model_copy(update=changes)


def _plateau(schedule: Plateau, before: Progress, training_loss: float, validation_loss: float) -> Progress:
    """Averages, drop and stop of [T4]."""
    training = _average(before.training_average, training_loss, schedule.train_loss_ema)
    validation = _average(before.validation_average, validation_loss, schedule.val_loss_ema)
    best_training, drop_wait = _wait(before.best_training, training, before.drop_wait, schedule.min_delta)
    best_validation, stop_wait = _wait(before.best_validation, validation, before.stop_wait, schedule.min_delta)
    rate = before.learning_rate
    if drop_wait >= schedule.patience:
        rate, drop_wait = rate * schedule.factor, 0
    stop = stop_wait >= schedule.stop_patience and rate < schedule.stop_below
    return Progress(
        learning_rate=rate,
        training_average=training,
        validation_average=validation,
        best_training=best_training,
        best_validation=best_validation,
        drop_wait=drop_wait,
        stop_wait=stop_wait,
        finished=stop or before.epoch + 1 >= schedule.epochs,
    )


def _average(old: float | None, new: float, memory: float) -> float:
    return new if old is None else memory * old + (1 - memory) * new


def _wait(best: float | None, value: float, waited: int, min_delta: float) -> tuple[float, int]:
    """The average to beat, and the epochs since it was beaten by `min_delta`."""
    if best is None or value <= best - min_delta:
        return value, 0
    return best, waited + 1

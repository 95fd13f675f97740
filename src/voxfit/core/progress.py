"""What a long computation tells whoever started it. The command line prints it; a program may ignore it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class EpochReport:
    """One finished epoch of training, what was done of it before an interruption included.

    Attributes:
        model: what is trained, "3d fold 0".
        epoch: number of finished epochs.
        training_loss, validation_loss: means of the epoch.
        class_dice: of each foreground class over the validation patches; None where it did not occur.
        learning_rate: of its last step; None, like speeds, where a checkpoint of old does not say.
        seconds: the epoch took.
        steps_per_second: training steps.
        wait_share: share of the time spent waiting for data.
        share_done: of the training.
        seconds_left: of this training, estimated.
        teraflops: 10^12 operations a second while training.
        peak_share: that, as a share of what a convolution reaches on this device.
    """

    model: str
    epoch: int
    training_loss: float
    validation_loss: float
    class_dice: Sequence[float | None]
    learning_rate: float | None
    seconds: float
    steps_per_second: float | None
    wait_share: float
    share_done: float
    seconds_left: float
    teraflops: float | None
    peak_share: float | None


class Listener:
    """Hears of progress; this one ignores it."""

    def say(self, text: str) -> None:
        """A sentence for the user."""

    def warn(self, text: str) -> None:
        """Something the user should look at."""

    def stage(self, text: str) -> None:
        """A new stage begins."""

    def progress(self, done: int, total: int) -> None:
        """`done` of `total` cases of the stage are finished."""

    def epoch(self, report: EpochReport) -> None:
        """An epoch is finished."""

    def confirm(self, question: str) -> bool:
        """Whether something may be done that the user should be asked about; nobody answers here, so not."""
        return False

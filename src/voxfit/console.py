"""How the command line shows progress: sentences, bars, the live display of a training."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from time import monotonic

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.prompt import Confirm
from rich.table import Table
from rich.text import Text

from voxfit.core.formatting import format_seconds
from voxfit.core.progress import EpochReport, Listener

_PLAIN_SECONDS = 10.0
"""Without a terminal, an epoch is printed at most this often."""


def make_console(*, stderr: bool = False) -> Console:
    """Where everything is printed, as it is: names of labels and files may look like Rich's markup or its emoji."""
    return Console(stderr=stderr, soft_wrap=True, markup=False, emoji=False)


class ConsoleListener(Listener):
    """Prints progress: live on a terminal, line by line elsewhere.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live: Live | None = None
        self._bar: Progress | None = None
        self._model = ""
        self._last_line = float("-inf")
        self._rows: list[EpochReport] = []

    def say(self, text: str) -> None:
        """Print a sentence."""
        self.console.print(text, highlight=False)

    def warn(self, text: str) -> None:
        """Print a warning."""
        self.console.print(Text("warning: ", style="yellow") + Text(text))

    def stage(self, text: str) -> None:
        """Print the headline of a stage."""
        self.close()
        self.console.print(Text(f"{text} ...", style="bold"))

    def progress(self, done: int, total: int) -> None:
        """Move the progress bar, on a terminal."""
        if not self.console.is_terminal:
            return
        if self._bar is None:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("cases"), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._bar.add_task("", total=total)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done, total=total)
        if done >= total:
            self._bar.stop()
            self._bar = None

    def epoch(self, report: EpochReport) -> None:
        """Show an epoch."""
        if report.model != self._model:
            self._model, self._rows = report.model, []
            self._last_line = float("-inf")
        self._rows = [*self._rows[-7:], report]
        if self.console.is_terminal:
            if self._live is None:
                self._live = Live(console=self.console, auto_refresh=False)
                self._live.start()
            self._live.update(self._table(), refresh=True)
        elif report.share_done >= 1 or monotonic() - self._last_line >= _PLAIN_SECONDS:
            self._last_line = monotonic()
            self.console.print(self._line(report), highlight=False)
        if report.share_done >= 1:
            self.close()

    def confirm(self, question: str) -> bool:
        """Ask, where a user sits at a terminal."""
        self.close()
        return (
            self.console.is_terminal
            and sys.stdin.isatty()
            and Confirm.ask(question, console=self.console, default=False)
        )

    def close(self) -> None:
        """Leave the live display and the progress bar as they are."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _line(self, report: EpochReport) -> str:
        return (
            f"  {report.model}  epoch {report.epoch}  loss {report.training_loss:.3f}  "
            f"validation {report.validation_loss:.3f}  Dice {_dices(report.class_dice)}  "
            f"rate {_number(report.learning_rate, '.1e')}  {_number(report.steps_per_second, '.2f')} steps/s  "
            f"waiting {report.wait_share:.1%}  {report.share_done:.0%}, {format_seconds(report.seconds_left)} left"
        )

    def _table(self) -> Group:
        table = Table(box=None, pad_edge=False)
        for name in ("epoch", "loss", "validation", "Dice of each class", "learning rate", "steps/s", "waiting"):
            table.add_column(name, justify="right")
        for row in self._rows:
            table.add_row(
                str(row.epoch),
                f"{row.training_loss:.3f}",
                f"{row.validation_loss:.3f}",
                _dices(row.class_dice),
                _number(row.learning_rate, ".1e"),
                _number(row.steps_per_second, ".2f"),
                f"{row.wait_share:.1%}",
            )
        last = self._rows[-1]
        done = f"{last.model}: {last.share_done:.0%} done, {format_seconds(last.seconds_left)} left"
        return Group(table, Text(done, style="cyan"))


def _dices(values: Sequence[float | None]) -> str:
    return " ".join(_number(value, ".3f") for value in values)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)

"""Everything voxfit raises on purpose.

::

    VoxfitError                 caught by the command line: its text is the whole message, exit code 1
    ├── UsageError              a request that makes no sense (options, names, sizes): exit code 64
    ├── DatasetError            a dataset, image or label that cannot be used; carries every problem found
    ├── RecordError             a JSON record that does not say what it must
    ├── ModelError              a model folder that cannot be opened
    ├── WorkspaceError          a run folder that cannot be used (locked, not writable, not a run)
    ├── WorkerError             a parallel task that died; names the task
    ├── TrainingError           a training that cannot go on: losses that are no numbers, too little memory
    └── MemoryLimitError        what is asked for takes more memory than it may

A message says what is wrong, where, and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


class VoxfitError(Exception):
    """Root of all errors that voxfit raises on purpose; `exit_code` is the command line's."""

    exit_code: ClassVar[int] = 1


class UsageError(VoxfitError):
    """A request that makes no sense: options that contradict, unknown names, impossible sizes."""

    exit_code = 64  # EX_USAGE of sysexits


class RecordError(VoxfitError):
    """A JSON record that is unreadable or does not hold what it must."""


class ModelError(VoxfitError):
    """A model folder that cannot be opened."""


class WorkspaceError(VoxfitError):
    """A run folder that cannot be used."""


class TrainingError(VoxfitError):
    """A training that cannot go on; its last good checkpoint is kept."""


class WorkerError(VoxfitError):
    """A parallel task that died without an exception; the message names the task and the likely cause."""


class MemoryLimitError(VoxfitError):
    """What is asked for takes more memory than it may; the message has both numbers."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a dataset.

    Attributes:
        where: the case, file or key it is about.
        what: the fact.
        remedy: what to do about it.
        fatal: training could not start; otherwise it is a warning.
        case: the training case that could be left out instead; empty where that would not help.
    """

    where: str
    what: str
    remedy: str
    fatal: bool = True
    case: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what} {self.remedy}".rstrip()


class DatasetError(VoxfitError):
    """A dataset (or one image of it) that cannot be used; `problems` lists everything that was found."""

    def __init__(self, problems: list[Problem] | Problem) -> None:
        self.problems = [problems] if isinstance(problems, Problem) else problems
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[DatasetError], tuple[list[Problem]]]:
        return DatasetError, (self.problems,)


def first_line(error: Exception) -> str:
    """What an error of another library says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

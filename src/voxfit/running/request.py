"""What is asked of `fit`, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from voxfit.assessment.selection import Selection
from voxfit.core.errors import UsageError
from voxfit.core.parallel import Executor, choose_executor
from voxfit.planning.plan import Limits
from voxfit.planning.recipes import Recipe


@dataclass(frozen=True)
class FitRequest:
    """What the user asks of `fit`.

    Attributes:
        dataset, run: the folders.
        configurations: names; None for all that the plan offers.
        folds: numbers; None for all.
        recipe: of the training.
        epochs: a fixed number of them; or
        budget_seconds: for the whole `fit`.
        device: auto, cpu, cuda, mps.
        limits: constants of the planning rules; None for those of the plan that is there, or the paper's.
        group_by: regular expression for groups of cases.
        workers: processes; None for one a core.
        deterministic: on a GPU too, the same training ends in the same bytes; slower.
        skip_bad_cases: leave out training cases that cannot be used; otherwise they are an error.
        restart: set finished trainings aside that do not fit what is asked for; otherwise they are an error.
    """

    dataset: Path | str
    run: Path | str
    configurations: tuple[str, ...] | None = None
    folds: tuple[int, ...] | None = None
    recipe: Recipe = field(default_factory=Recipe)
    epochs: int | None = None
    budget_seconds: float | None = None
    device: str = "auto"
    limits: Limits | None = None
    group_by: str | None = None
    workers: int | None = None
    deterministic: bool = False
    skip_bad_cases: bool = False
    restart: bool = False

    @property
    def executor(self) -> Executor:
        """Where work on single cases runs."""
        return choose_executor(self.workers)

    def __post_init__(self) -> None:
        if self.epochs and self.budget_seconds:
            raise UsageError("--epochs and --budget exclude each other: one fixes the steps, the other the time.")


@dataclass(frozen=True)
class FitResult:
    """What `fit` made.

    Attributes:
        selection: all candidates and the chosen one.
        model: the folder to predict with.
        run: the run folder.
    """

    selection: Selection
    model: Path
    run: Path

"""What a row of the benchmark is."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
BIN = Path(os.environ.get("VOXFIT_BENCH_BIN") or Path(sys.executable).parent)
"""Commands of the environment of the peers; packages that were installed apart have theirs elsewhere."""


@dataclass(frozen=True)
class Setting:
    """Where and how rows are measured.

    Attributes:
        data: the folder of real datasets.
        work: keeps what is expensive to make, and what the sides write.
        device: "cpu" or "cuda".
        quick: small inputs, to see that a row runs.
    """

    data: Path
    work: Path
    device: str = "cpu"
    quick: bool = False

    def folder(self, name: str) -> Path:
        """A folder in `work`; quick inputs have their own."""
        path = self.work / "bench" / ("quick" if self.quick else "full") / name
        path.mkdir(parents=True, exist_ok=True)
        return path


@dataclass(frozen=True)
class Target:
    """What ours shall reach; None asks for nothing.

    Attributes:
        speed: seconds of the peer / ours.
        memory: peak memory of the peer / ours.
        seconds: at most.
        mib: of peak memory, at most.
    """

    speed: float | None = None
    memory: float | None = None
    seconds: float | None = None
    mib: float | None = None


@dataclass(frozen=True)
class Kernel:
    """A function, timed inside of a process that lives as long as its row is measured.

    Attributes:
        name: of the program, "nnU-Net v2".
        prepare: makes inputs, and returns the function. Where that returns an array, or a dict of numbers, the last
            one is saved for the check.
        target: of ours.
        missing: says why this side cannot be measured; None where it can.
        precision: in which it calculates on a device, for the table.
        may_fail: where it cannot be prepared it is left out, and the table says so; others fail the row.
    """

    name: str
    prepare: Callable[[Setting], Callable[[], Any]]
    target: Target = Target()
    missing: Callable[[Setting], str | None] = lambda setting: None
    precision: Callable[[str], str] = lambda device: "float32"
    may_fail: bool = False


@dataclass(frozen=True)
class Command:
    """Commands one after the other, timed as whole processes, new ones for each repetition.

    Attributes:
        name, target, missing, precision: see `Kernel`.
        lines: the commands; they get an empty folder to write into.
        environment: variables added to those of this process.
        printed: the last line that the last command prints is the time, in seconds.
    """

    name: str
    lines: Callable[[Setting, Path], list[list[str]]]
    environment: Callable[[Setting, Path], dict[str, str]] = lambda setting, output: {}
    target: Target = Target()
    missing: Callable[[Setting], str | None] = lambda setting: None
    precision: Callable[[str], str] = lambda device: "float32"
    printed: bool = False


Side = Kernel | Command


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        name: for the command line.
        title: what is done.
        ours, theirs: who does it.
        check: says in how far the sides computed the same thing, its tolerance included; fails by an AssertionError.
            It is given the folder in which each side has one of its name.
        ready: what is made before and not timed, in a process of its own.
        threads: of each side; more than one stands for all cores that may be used.
        whole: memory is compared of whole processes, although the row is one of functions: what they keep counts.
        repeats: at most, where fewer than are asked for are enough: a row without a peer has no ratios.
        warm: whether each side runs once before it counts.
        devices: where the row makes sense.
    """

    name: str
    title: str
    ours: tuple[Side, ...]
    theirs: tuple[Side, ...] = ()
    check: Callable[[Setting, Path], str] | None = None
    ready: Callable[[Setting], None] | None = None
    threads: int = 2
    whole: bool = False
    repeats: int | None = None
    warm: bool = True
    devices: tuple[str, ...] = ("cpu",)

    @property
    def sides(self) -> tuple[Side, ...]:
        """In the order of measuring."""
        return self.ours + self.theirs

    def side(self, name: str) -> Side:
        """By name."""
        return next(side for side in self.sides if side.name == name)


def asked_for(rows: tuple[Row, ...], wanted: str, device: str) -> list[Row]:
    """The rows of a device whose names begin as one of `wanted` (comma-separated) does; all where that is empty.

    A word with a "$" behind it is a whole name.

    Raises:
        ValueError: a word fits no row.
    """
    there = [row for row in rows if device in row.devices]
    words = [word.strip() for word in wanted.split(",") if word.strip()]
    for word in words:
        if not any(f"{row.name}$".startswith(word) for row in there):
            raise ValueError(f"{word}: no row of {device} begins so. There are: {', '.join(row.name for row in there)}")
    return [row for row in there if not words or any(f"{row.name}$".startswith(word) for word in words)]

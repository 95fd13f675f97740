"""The sides of a row, timed in turn. This process stays small: children inherit its peak memory as theirs."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.row import ROOT, Command, Kernel, Row, Setting, Side

Say = Callable[[str], None]

_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
_LARGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}
_FAREWELL = 5.0
"""Seconds that a process has to come to its end."""


class BenchmarkError(Exception):
    """A side failed; says where its output is."""


@dataclass
class Measured:
    """What one side cost.

    Attributes:
        seconds: of each repetition.
        peak_mib: of the largest process, at its largest.
        before_mib: of that, what was there before the first repetition: imports, inputs. None for commands.
    """

    seconds: list[float] = field(default_factory=list)
    peak_mib: float = 0.0
    before_mib: float | None = None

    def own_mib(self, whole: bool) -> float:
        """What the work took: all of the process, or what a function added to imports and inputs (at least 1)."""
        return max(self.peak_mib - (0.0 if whole else self.before_mib or 0.0), 1.0)


def make_ready(row: Row, setting: Setting, say: Say) -> None:
    """Make what a row needs, and does not time."""
    if row.ready:
        say("  making ready")
        _call(row, "ready", "", setting, setting.folder(row.name))


def measure_row(
    row: Row, sides: list[Side], setting: Setting, repeats: int, say: Say, seconds: float = math.inf
) -> dict[str, Measured]:
    """Time `sides` of a row that is ready in turn, each time in the other order.

    One run of each warms up where the row wants that.

    Args:
        row: what they belong to.
        sides: those that can be measured.
        setting: where and how.
        repeats: how many times; the row may want fewer.
        say: hears of progress.
        seconds: after which no further repetition begins, once there is one.

    Returns:
        what each cost, without those that may fail and did.
    """
    begun = perf_counter()
    measured = {side.name: Measured() for side in sides}
    with ExitStack() as stack:
        started = {side.name: _start(row, side, setting, stack, say) for side in sides}
        runs = {name: run for name, run in started.items() if run}
        measured = {name: measured[name] for name in runs}
        for number in range(0 if row.warm else 1, counted(row, repeats) + 1):
            if number > 1 and perf_counter() - begun > seconds:
                break
            for name, run in in_turn(runs, number):
                took = run.once()
                if number:
                    measured[name].seconds.append(took)
                say(f"  {name}: {took:.3f} s{'' if number else ' (warm-up)'}")
        for name, run in runs.items():
            measured[name].peak_mib, measured[name].before_mib = run.finish()
    return measured


def _start(row: Row, side: Side, setting: Setting, stack: ExitStack, say: Say) -> Any:
    """What runs a side; None where it may fail, and does."""
    try:
        return stack.enter_context(_OPEN[type(side)](row, side, setting))
    except BenchmarkError as error:
        if not (isinstance(side, Kernel) and side.may_fail):
            raise
        say(f"  left out: {error}")
        return None


def in_turn(runs: dict[str, Any], number: int) -> list[tuple[str, Any]]:
    """Those of one repetition: from the first to the last, in the next one from the last to the first."""
    return list(runs.items())[:: -1 if number % 2 else 1]


def counted(row: Row, repeats: int) -> int:
    """How many repetitions count."""
    return min(repeats, row.repeats or repeats)


def numbers_of(row: Row, side: str, setting: Setting) -> dict[str, Any]:
    """What a function said of its last run, where it returned numbers."""
    path = setting.folder(row.name) / side / "output.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def check_row(row: Row, setting: Setting) -> dict[str, Any]:
    """Whether the sides computed the same, and what is to be said about it."""
    return _call(row, "check", "", setting, setting.folder(row.name))


class _Resident:
    """A kernel in its process."""

    def __init__(self, row: Row, side: Kernel, setting: Setting) -> None:
        self.place = f"{row.name}, {side.name}"
        output = fresh(setting.folder(row.name) / side.name)
        self.log = output.with_name(f"{side.name}.log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                _worker_line("kernel", row, side.name, setting, output),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env=os.environ | same_for_all(row),
            )

    def __enter__(self) -> _Resident:
        try:
            self._answer()
        except BenchmarkError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        # One that was told to finish ends the processes that it started; killed, it leaves them behind.
        if self.process.stdin and self.process.stdin.closed:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_FAREWELL)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe
            with suppress(BrokenPipeError):
                pipe.close()

    def once(self) -> float:
        """Seconds of a run."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self._answer()["seconds"])

    def finish(self) -> tuple[float, float]:
        """Peak memory, and what was there before the first run, in MiB."""
        assert self.process.stdin
        self.process.stdin.close()
        said = self._answer()
        return said["peak_mib"], said["before_mib"]

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise BenchmarkError(f"{self.place}: the process ended. Its output: {self.log}")
        found: dict[str, Any] = json.loads(line)
        return found


class _Repeated:
    """Commands, run anew each time."""

    def __init__(self, row: Row, side: Command, setting: Setting) -> None:
        self.side, self.setting = side, setting
        self.output = setting.folder(row.name) / side.name
        self.log = self.output.with_name(f"{side.name}.log")
        self.threads = same_for_all(row)
        self.peak_mib = 0.0

    def __enter__(self) -> _Repeated:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def once(self) -> float:
        """Seconds of a run."""
        output = fresh(self.output)
        environment = os.environ | self.threads | self.side.environment(self.setting, output)
        begun = perf_counter()
        with self.log.open("w") as log:
            for line in self.side.lines(self.setting, output):
                self._run(line, environment, log)
        seconds = perf_counter() - begun
        return float(self.log.read_text().splitlines()[-1]) if self.side.printed else seconds

    def finish(self) -> tuple[float, None]:
        """Peak memory in MiB."""
        return self.peak_mib, None

    def _run(self, line: list[str], environment: dict[str, str], log: Any) -> None:
        process = subprocess.Popen(line, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise BenchmarkError(f"{' '.join(line)}: exit code {process.returncode}. Its output: {self.log}")
        self.peak_mib = max(self.peak_mib, usage.ru_maxrss / 2**10)


_OPEN: dict[type, Callable[..., Any]] = {Kernel: _Resident, Command: _Repeated}


def fresh(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def threads_of(row: Row) -> int:
    """Of each side: one, or as many as there are cores that may be used."""
    return 1 if row.threads == 1 else len(os.sched_getaffinity(0))


def same_for_all(row: Row) -> dict[str, str]:
    """Variables of every side: threads, and the large pages that voxfit asks PyTorch for."""
    return dict.fromkeys(_THREADS, str(threads_of(row))) | _LARGE_PAGES


def _worker_line(what: str, row: Row, side: str, setting: Setting, folder: Path) -> list[str]:
    described = json.dumps(asdict(setting), default=str)
    return [sys.executable, "-m", "benchmarks.worker", what, row.name, side, described, str(folder)]


def _call(row: Row, what: str, side: str, setting: Setting, folder: Path) -> dict[str, Any]:
    log = folder / f"{what}.log"
    with log.open("w") as errors:
        line = _worker_line(what, row, side, setting, folder)
        done = subprocess.run(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"{row.name}: {what} failed. Its output: {log}")
    found: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
    return found

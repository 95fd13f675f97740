"""`python -m benchmarks.gpu_session`: all that a GPU has to show, in one go and within a time.

Tests, waiting for data with two cores, rows beside nnU-Net v2, and a real fold. Each step has its limit; one that fails
or is cut off is named, and the next one begins. The last lines are a table, `--out` gets logs and results.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from benchmarks.results import load
from benchmarks.row import ROOT

ROWS = {
    "train3d": 90.0,
    "train128": 130.0,
    "predict20": 90.0,
    "predict20_mirrored": 60.0,
    "predict_large": 60.0,
    "sliding": 50.0,
    "train2d": 80.0,
}
"""Those that are measured, the most wanted first, and the seconds that each may take."""
LOADING = {"train3d": 60.0, "train128": 80.0}
"""Those whose loader is watched on two cores."""
TESTS = 170.0
STEPS = "tests,loading,rows,fit"
_SOFT = 0.6
"""Of its limit: after that a row is not repeated again."""
_LEAST = 15.0
"""Seconds: with less than that left, nothing is begun."""
_REHEARSING = 45.0
"""Seconds for which rehearsals may go on when the tests are over."""
_AFTER_FIT = 15.0
"""Seconds that a budget may be exceeded by."""


@dataclass
class Session:
    """What is running, and what came of it.

    Attributes:
        out: gets logs and results.
        place: for all that is made meanwhile.
        data: the folder of real datasets.
        device: "cuda"; "cpu" to see that all of this runs.
        quick: small inputs.
        patience: a factor on the limits of steps.
        end: when nothing may run any more, on the clock of `perf_counter`.
        said: a line for each step.
        others: processes in the background.
    """

    out: Path
    place: Path
    data: Path
    device: str
    quick: bool
    patience: float
    end: float
    said: list[str] = field(default_factory=list)
    others: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - perf_counter()

    def step(self, name: str, line: Sequence[str], limit: float) -> None:
        """Run a command, its output into the log; it ends when its time is over."""
        limit = min(limit * self.patience, self.left)
        if limit < _LEAST:
            self.said.append(f"{name}: left out, no time")
            return
        begun = perf_counter()
        with (self.out / "session.log").open("ab") as log:
            log.write(f"\n===== {name}: {' '.join(line)}\n".encode())
            log.flush()
            process = _start(line, log)
            try:
                ended = f"exit code {process.wait(limit)}"
            except subprocess.TimeoutExpired:
                ended = "CUT OFF"
            _end(process)
        self.said.append(f"{name}: {ended}, {perf_counter() - begun:.0f} s")
        print(self.said[-1], flush=True)

    def bench(self, rows: str, *options: str) -> list[str]:
        """The command that measures rows."""
        line = [sys.executable, "-m", "benchmarks", "--rows", rows, "--device", self.device, "--cores", "0"]
        line += ["--data", str(self.data), "--work", str(self.place / "bench")]
        return [*line, *(["--quick"] if self.quick else []), *options]

    def rehearse(self) -> None:
        """Begin what is not timed: prepared data, and the rows once, so that compilers find their work done.

        Rows of one dataset are made ready before they run side by side.
        """
        spare = str(self.place / "rehearsal.json")
        whole = ("--repeats", "1", "--results", spare)
        first = self.bench("train3d,train2d", "--ready")
        later = [
            self.bench("predict", "--ready"),
            self.bench("train3d$", *whole),
            self.bench("train2d$", *whole),
        ]
        script = " & ".join(shlex.join(line) for line in later)
        for name, line in (
            ("hippocampus", ["bash", "-c", f"{shlex.join(first)}; {script} & wait"]),
            ("tumours", self.bench("train128", *whole)),
        ):
            with (self.place / f"rehearsal_{name}.log").open("wb") as log:
                self.others.append(_start(line, log))

    def end_rehearsals(self) -> None:
        """Wait for them for a while, then end them: nothing runs beside what is timed."""
        begun, limit = perf_counter(), min(_REHEARSING * self.patience, self.left)
        while any(process.poll() is None for process in self.others) and perf_counter() - begun < limit:
            sleep(0.5)
        unfinished = sum(process.poll() is None for process in self.others)
        for process in self.others:
            _end(process)
        self.said.append(f"rehearsals: {unfinished} unfinished, waited {perf_counter() - begun:.0f} s")
        with (self.out / "session.log").open("ab") as log:
            for path in sorted(self.place.glob("rehearsal_*.log")):
                log.write(f"\n===== {path.name}\n".encode() + path.read_bytes())

    def numbers(self, row: str) -> dict[str, Any]:
        """What our side of a row said of its last run; said once."""
        path = self.place / "bench" / "bench" / ("quick" if self.quick else "full") / row / "voxfit" / "output.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        path.unlink(missing_ok=True)
        return found


def main(arguments: list[str]) -> int:
    """Run from the command line; returns 0, for failed steps are named in the table."""
    options = _parser().parse_args(arguments)
    for folder in (options.out, options.place):
        folder.mkdir(parents=True, exist_ok=True)
    session = Session(
        options.out.resolve(),
        options.place.resolve(),
        options.data.resolve(),
        options.device,
        options.quick,
        options.patience,
        perf_counter() + options.seconds,
    )
    steps = {
        "tests": lambda: test(session),
        "loading": lambda: watch_loading(session),
        "rows": lambda: measure(session, options.repeats),
        "fit": lambda: fit(session, options.budget),
    }
    for name in options.steps.split(","):
        steps[name]()
    _print_table(session)
    return 0


def test(session: Session) -> None:
    """What a GPU computes is right; meanwhile the rows rehearse."""
    machine = "nvidia-smi; " + shlex.join([sys.executable, "-c", _VERSIONS])
    session.step("machine", ["bash", "-c", machine], 60)
    session.rehearse()
    report = session.out / "tests.xml"
    line = [sys.executable, "-m", "pytest", "tests/gpu", "tests/learning/test_intensity.py", "-k", "gpu", "-v"]
    session.step("tests", [*line, "-p", "no:cacheprovider", "--durations", "10", f"--junitxml={report}"], TESTS)
    session.end_rehearsals()


def measure(session: Session, repeats: int) -> None:
    """Rows beside nnU-Net v2, into `results.json`, which `python -m benchmarks --take` puts into the page."""
    found = {}
    for row, limit in ROWS.items():
        session.numbers(row)
        options = ["--repeats", str(repeats), "--seconds", str(limit * session.patience * _SOFT)]
        line = session.bench(f"{row}$", *options, "--results", str(session.out / "results.json"))
        session.step(row, line, limit)
        found[row] = session.numbers(row)
    (session.out / "numbers.json").write_text(json.dumps(found, indent=1))


def watch_loading(session: Session) -> None:
    """How long the network waits for its data where two cores have to do everything."""
    found = {}
    for row, limit in LOADING.items():
        session.numbers(row)
        line = session.bench(f"{row}$", "--repeats", "1", "--ours", "--results", str(session.place / "loading.json"))
        line[line.index("--cores") + 1] = "2"
        session.step(f"{row} on two cores", line, limit)
        found[row] = session.numbers(row)
    (session.out / "loading.json").write_text(json.dumps(found, indent=1))


def fit(session: Session, budget: float) -> None:
    """A fold of Hippocampus with the paper's settings; all the time that is left where no budget is given."""
    run = session.place / "hippocampus"
    shutil.rmtree(run, ignore_errors=True)
    seconds = min(budget or session.left, session.left) - _AFTER_FIT
    line = [sys.executable, "-m", "voxfit", "fit", str(session.data / "Task04_Hippocampus"), "-o", str(run)]
    line += ["--configurations", "3d", "--folds", "0", "--budget", f"{max(int(seconds), 1)}s"]
    session.step("fit", [*line, "--device", session.device], seconds + _AFTER_FIT)
    wanted = (
        "report.html",
        "selection.json",
        "plan.json",
        "3d/fold_0/history.jsonl",
        "3d/cross_validation/scores.json",
    )
    for name in wanted:
        if (run / name).exists():
            shutil.copyfile(run / name, session.out / f"fit_{Path(name).name}")


def _print_table(session: Session) -> None:
    lines = ["", *session.said, ""]
    for entry in load(session.out / "results.json").values():
        for pair in entry["pairs"]:
            ours, theirs = (entry["sides"][pair[side]] for side in ("ours", "theirs"))
            lines.append(
                f"{entry['name']:19} {pair['theirs']:11} {ours['median']:8.3f} s {theirs['median']:8.3f} s "
                f"{pair['speed']['median']:5.2f}x ({pair['speed']['low']:.2f} to {pair['speed']['high']:.2f}) "
                f"{len(ours['seconds'])} runs, memory {pair['memory']:.2f}x, {'ok' if entry['same'] else 'DIFFERENT'}"
            )
        lines.append(f"  {entry['check']}")
    for name in ("numbers.json", "loading.json"):
        path = session.out / name
        for row, found in (json.loads(path.read_text()) if path.exists() else {}).items():
            if found:
                lines.append(
                    f"{name} {row}: waiting {found['waiting']:.2%}, {found['teraflops']:.3g} TFLOP/s, "
                    f"{found['peak_share']:.1%} of peak; {found['execution']}; {found['ways']}"
                )
    scores = session.out / "fit_selection.json"
    lines += [f"fit: {json.dumps(json.loads(scores.read_text()))[:600]}"] if scores.exists() else []
    with (session.out / "session.log").open("a") as log:
        log.write("\n".join(lines) + "\n")
    print("\n".join(lines), flush=True)


_VERSIONS = """
import os, sys, torch, numpy, SimpleITK, nnunetv2, blosc2, monai, lightning_fabric, pydantic, cc3d
print(sys.version, len(os.sched_getaffinity(0)), "cores", torch.__version__, torch.version.cuda, numpy.__version__)
print(torch.backends.cudnn.version(), torch.cuda.is_available() and torch.cuda.get_device_properties(0))
"""


def _start(line: Sequence[str], log: Any) -> subprocess.Popen[bytes]:
    """A command in a session of its own, so that it can be ended with all that it starts."""
    return subprocess.Popen(line, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command, and what it left running."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_session", description=__doc__)
    parser.add_argument("--steps", default=STEPS, help=f"in their order; all: {STEPS}")
    parser.add_argument("--seconds", type=float, default=780.0, help="for everything")
    parser.add_argument("--budget", type=float, default=0.0, help="seconds of the fit; default: all that is left")
    parser.add_argument("--repeats", type=int, default=3, help="counted runs of each side")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of real datasets")
    parser.add_argument("--place", type=Path, default=ROOT / "build" / "gpu", help="for what is made meanwhile")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu" / "out", help="for logs and results")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu: to see that all of it runs")
    parser.add_argument("--quick", action="store_true", help="small inputs")
    parser.add_argument("--patience", type=float, default=1.0, help="factor on the limits of steps, for slow machines")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

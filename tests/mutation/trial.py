"""Tests of a copy of the project, in which one mutation at a time is planted. The tree itself is only read."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from tests.mutation.mutation import ROOT, Mutation

_COPIED = ("src", "tests", "docs", "benchmarks", "pyproject.toml", "README.md", "Makefile")
_LONGEST_SECONDS = 600.0
_NOTICED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
_PYTEST = ("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "tests.mutation.unshrunk", "--hypothesis-seed=0")
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
"""Without bytecode: that of a file which changes twice a second would be taken for that of the change before."""


@dataclass(frozen=True)
class Outcome:
    """How tests ended: whether all passed, the first that did not (or why there is none), and the time they took."""

    passed: bool
    by: str
    seconds: float


class Copy:
    """A copy of the project. The data beside the tree are not beside the copy: what counts is what a clone notices."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project = folder / "project"
        self.project.mkdir(parents=True)
        for name in _COPIED:
            source, target = ROOT / name, self.project / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                shutil.copyfile(source, target)
        self._environment = os.environ | _ENVIRONMENT
        self._environment |= {
            "PYTHONPATH": str(self.project / "src"),
            "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "h"),
        }

    @contextmanager
    def planted(self, mutation: Mutation) -> Iterator[None]:
        """The mutation is in the copy."""
        path = self.project / mutation.path
        source = path.read_text()
        path.write_text(mutation.apply(source))
        try:
            yield
        finally:
            path.write_text(source)

    def test(self, selection: Sequence[str], most_seconds: float = _LONGEST_SECONDS) -> Outcome:
        """Run tests of the copy, up to the first that fails."""
        command = [sys.executable, *_PYTEST, f"--basetemp={self.folder / 'temporary'}", *selection]
        begun = monotonic()
        process = subprocess.Popen(
            command,
            cwd=self.project,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=most_seconds)
        except subprocess.TimeoutExpired:
            output = f"ERROR did-not-end-within-{most_seconds:.0f}-seconds"
        finally:
            _end(process)
        found = _NOTICED.search(output)
        by = (
            found[1] if found else "" if process.returncode == 0 else f"exit code {process.returncode}: {output[-500:]}"
        )
        return Outcome(process.returncode == 0, by, round(monotonic() - begun, 1))


def _end(process: subprocess.Popen[str]) -> None:
    """The process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()

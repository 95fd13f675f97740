"""Tests of a copy of the project, in which one mutation at a time is planted. The tree itself is only read."""

from __future__ import annotations

import compileall
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from py_compile import PycInvalidationMode
from time import monotonic

from tests.mutation.mutation import ROOT, Mutation

_COPIED = ("src", "tests", "docs", "benchmarks", "pyproject.toml", "README.md", "Makefile")
_LONGEST_SECONDS = 600.0
_NOTICED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
_PYTEST = ("-x", "-q", "-p", "no:cacheprovider", "-p", "tests.mutation.unshrunk", "--hypothesis-seed=0")
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
"""Bytecode is that of the copy without a fault: what is written later holds by times of change, which are seconds."""


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
        compileall.compile_dir(self.project / "src", quiet=1, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
        environment = {
            "PYTHONPATH": str(self.project / "src"),
            "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "examples"),
        }
        self._zygote = subprocess.Popen(
            [sys.executable, "-m", "tests.mutation.zygote"],
            cwd=self.project,
            env=os.environ | _ENVIRONMENT | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # of what is read, nothing may lie in a buffer where `select` does not see it
        )

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
        output = self.folder / "output.txt"
        begun = monotonic()
        process = int(self._ask([str(output), *_PYTEST, f"--basetemp={self.folder / 'temporary'}", *selection]))
        code = self._answer(most_seconds)
        with suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
        if code is None:
            self._answer()
            return Outcome(False, "did not end", round(monotonic() - begun, 1))
        text = output.read_text(errors="replace")
        found = _NOTICED.search(text)
        by = found[1] if found else f"exit code {code}: {text[-500:]}" if code else ""
        return Outcome(code == 0, by, round(monotonic() - begun, 1))

    def close(self) -> None:
        """End its process."""
        with self._zygote:
            self._zygote.stdin.close()

    def _ask(self, arguments: list[str]) -> bytes:
        """The number of the process that has been begun."""
        self._zygote.stdin.write(json.dumps(arguments).encode() + b"\n")
        return self._zygote.stdout.readline()

    def _answer(self, most_seconds: float | None = None) -> int | None:
        """The exit code; None where there is none in time."""
        ready, _, _ = select.select([self._zygote.stdout], [], [], most_seconds)
        return int(self._zygote.stdout.readline()) if ready else None

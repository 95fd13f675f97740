"""Trying mutations side by side, and keeping what was found."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from threading import Lock

from tests.mutation.mutation import ROOT, Mutation, digest_of
from tests.mutation.trial import Copy, Outcome

_PATIENCE = 5
"""A mutation may make its tests this many times slower, and a minute; then they count as stopped by it."""


class Results:
    """How tests ended, by digest, in a JSON file that is whole at any time."""

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        self.path = path
        self._known: dict[str, Outcome] = {}
        self._lock = Lock()
        if path.exists() and not fresh:
            self._known = {key: Outcome(**item) for key, item in json.loads(path.read_text()).items()}

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> Outcome:
        return self._known[key]

    def noticed(self, item: Mutation) -> bool:
        """Whether the tests of a mutation failed."""
        return item.digest in self and not self[item.digest].passed

    def note(self, key: str, outcome: Outcome) -> None:
        """Keep an outcome."""
        with self._lock:
            self._known[key] = outcome
            self.path.parent.mkdir(exist_ok=True)
            temporary = self.path.with_suffix(".unfinished")
            temporary.write_text(json.dumps({key: asdict(item) for key, item in self._known.items()}, indent=1))
            temporary.replace(self.path)

    def forget(self, items: Iterable[Mutation]) -> None:
        """Have these tried again."""
        for item in items:
            self._known.pop(item.digest, None)


def try_all(items: Sequence[Mutation], results: Results, jobs: int | None = None) -> list[str]:
    """Try each mutation that has no result yet; returns the tests that fail without any."""
    left = [item for item in items if item.digest not in results and not item.equivalent]
    jobs = min(jobs or len(os.sched_getaffinity(0)), len(left))
    if not left:
        return []
    with tempfile.TemporaryDirectory(prefix="voxfit-mutation-") as folder:
        bench = _Bench(Path(folder), jobs, results)
        try:
            with ThreadPoolExecutor(jobs) as pool:
                list(pool.map(bench.attempt, left))
        finally:
            bench.close()
    return sorted(bench.faults)


class _Bench:
    """Copies of the project, one for each mutation that is tried at the same time."""

    def __init__(self, folder: Path, jobs: int, results: Results) -> None:
        self.results = results
        self.faults: set[str] = set()
        self._lock = Lock()
        self._source = digest_of([path.read_text() for path in sorted((ROOT / "src").rglob("*.py"))])
        self._copies: SimpleQueue[Copy] = SimpleQueue()
        for number in range(jobs):
            self._copies.put(Copy(folder / str(number)))

    def attempt(self, item: Mutation) -> None:
        """Try a mutation, after its tests have passed without it."""
        copy = self._copies.get()
        try:
            usual = self._without(item, copy)
            if not usual.passed:
                self.faults.add(f"{' '.join(item.selection)}: {usual.by}")
                return
            with copy.planted(item):
                outcome = copy.test(item.selection, 60 + _PATIENCE * usual.seconds)
        finally:
            self._copies.put(copy)
        self.results.note(item.digest, outcome)
        said = "NOT NOTICED" if outcome.passed else "noticed"
        print(f"{said} after {outcome.seconds:.0f} s: {item.file}, {item.meaning}", flush=True)

    def close(self) -> None:
        """End all processes."""
        while not self._copies.empty():
            self._copies.get().close()

    def _without(self, item: Mutation, copy: Copy) -> Outcome:
        """How the tests of a mutation end without it."""
        key = digest_of([self._source, *item.selection, *(path.read_text() for path in item.test_files)])
        with self._lock:  # of two mutations with the same tests, the second waits for what the first finds
            if key not in self.results or not self.results[key].passed:
                self.results.note(key, copy.test(item.selection))
        return self.results[key]

"""Which backend is fastest: found while a job runs, kept for the next one.

A backend is tried once the job has lasted so long that the trial repays if as much is still to come. A trial is passes
over tiles of the job itself, so it costs the conversion only, and a small job pays nothing.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import ClassVar

from voxfit.core.errors import RecordError, WorkspaceError
from voxfit.core.parallel import available_cores
from voxfit.core.processor import processor_name
from voxfit.core.records import Record, digest_of
from voxfit.planning.architecture import Topology

FALLBACK = "torch"
"""The backend that works everywhere."""

_TIMED_PASSES = 3


class BackendChoice(Record):
    """A choice that was measured: the fastest backend, and the seconds that a tile took with each."""

    schema_name: ClassVar[str] = "voxfit.backend/1"
    backend: str
    seconds: dict[str, float]


def cache_folder() -> Path:
    """Where choices are kept: VOXFIT_CACHE, or `voxfit` in XDG_CACHE_HOME or ~/.cache."""
    if chosen := os.environ.get("VOXFIT_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "voxfit"


def choice_path(topology: Topology, patch: Sequence[int], device: str, packages: Collection[str]) -> Path:
    """The file that keeps a choice, named by a digest of all that it depends on.

    Args:
        topology: of the networks.
        patch: size of their tiles.
        device: where they run.
        packages: of the backends that may be chosen.
    """
    versions = [[name, importlib.metadata.version(name)] for name in sorted(packages)]
    threads = [os.environ.get("OMP_NUM_THREADS"), available_cores()]
    where = _gpu_name(device) if device.startswith("cuda") else processor_name()
    key = digest_of([topology.model_dump(mode="json"), list(patch), device, where, threads, versions])
    return cache_folder() / "backends" / f"{key}.json"


def _gpu_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device)


class Chooser:
    """Finds the fastest of several backends while they work.

    Args:
        candidates: names of backends in the order of trial, each with the seconds of work after which it is tried.
        path: the file that keeps the choice; one that is damaged is not read, one that cannot be written is left out.

    Attributes:
        current: the backend for the next pass.
        settled: whether nothing is left to try.
    """

    def __init__(self, candidates: Mapping[str, float], path: Path) -> None:
        self.path = path
        self.current = next(iter(candidates))
        self.settled = len(candidates) == 1
        self._repays_after = dict(candidates)
        self._untried = list(candidates)[1:]
        self._worked = 0.0
        self._seconds: dict[str, deque[float]] = {}
        try:
            kept = BackendChoice.load(path)
        except RecordError:
            return
        if kept.backend in candidates:
            self.current, self.settled = kept.backend, True

    def note(self, tiles: int, seconds: float, *, first: bool) -> None:
        """Hear of a pass of the current backend; the first one over a network includes its conversion."""
        self._worked += seconds
        times = self._seconds.setdefault(self.current, deque(maxlen=_TIMED_PASSES))
        if not first:
            times.append(seconds / tiles)
        if self.settled or len(times) < _TIMED_PASSES:
            return
        if self._untried and self._worked >= self._repays_after[self._untried[0]]:
            self.current = self._untried.pop(0)
            return
        medians = {name: median(values) for name, values in self._seconds.items()}
        self.current = min(medians, key=lambda name: medians[name])
        if not self._untried:
            self.settled = True
            with suppress(WorkspaceError):
                BackendChoice(backend=self.current, seconds=medians).save(self.path)

    def drop(self) -> None:
        """The current backend fails on this machine; PyTorch, which always works, goes on."""
        self._seconds.pop(self.current, None)
        self._untried = [name for name in self._untried if name not in (self.current, FALLBACK)]
        self.current = FALLBACK
        self.settled = not self._untried

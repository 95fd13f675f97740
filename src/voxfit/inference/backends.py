"""What runs the networks: PyTorch, PyTorch compiled, or OpenVINO; all compute the same, to rounding errors.

"auto" begins with PyTorch and tries another backend once the job has lasted so long that the trial repays if as much
is still to come. A trial is passes over tiles of the job itself, so it costs the conversion only, and a small job pays
nothing. The choice is kept for the next time.
"""

from __future__ import annotations

import copy
import importlib.metadata
import importlib.util
import os
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import ClassVar, Literal, get_args

import torch

from voxfit.core.errors import RecordError, UsageError, WorkspaceError
from voxfit.core.listening import Listener
from voxfit.core.parallel import available_cores
from voxfit.core.processor import processor_name
from voxfit.core.records import Record, digest_of
from voxfit.inference.predictor import Network
from voxfit.inference.rounding import Range
from voxfit.networks.unet import UNet
from voxfit.planning.stages import Topology

Backend = Literal["torch", "torch-channels-last", "torch-compiled", "openvino"]

BACKENDS: tuple[Backend, ...] = get_args(Backend)

_REPAYS_AFTER: dict[Backend, float] = {"torch-channels-last": 1.0, "openvino": 1.5, "torch-compiled": 300.0}
"""Seconds of work after which a backend is tried: what its conversion takes, over the share of time it may save."""

_TIMED_PASSES = 3


class BackendChoice(Record):
    """A choice that was measured: the fastest backend, and the seconds that a tile took with each."""

    schema_name: ClassVar[str] = "voxfit.backend/1"
    backend: Backend
    seconds: dict[str, float]


def parse_backend(name: str) -> Backend | None:
    """A backend by name; None for "auto".

    Raises:
        UsageError: there is none of this name.
    """
    found = next((known for known in BACKENDS if known == name), None)
    if found is None and name != "auto":
        raise UsageError(f"--backend {name}: there are auto, {', '.join(BACKENDS)}.")
    return found


@dataclass(frozen=True)
class Execution:
    """How the networks of a model are run.

    Attributes:
        backend: None finds the fastest while the job runs.
        ranges: by the weights file of a network, of the tensors that 8 bits hold (`voxfit.inference.rounding`): INT8
            by OpenVINO.
        listener: hears where a compiler fails; PyTorch goes on then.
    """

    backend: Backend | None = "torch"
    ranges: Mapping[str, Mapping[str, Range]] | None = None
    listener: Listener = field(default_factory=Listener)

    def adapt(
        self, networks: Sequence[UNet], topology: Topology, patch: Sequence[int], device: str, files: Sequence[str]
    ) -> tuple[Network, ...]:
        """Let the backend run the networks of one configuration (its folds). They are not for several threads at once.

        Args:
            networks: in evaluation mode, on `device`.
            topology: of all of them.
            patch: size of the tiles, an edge for each axis that the networks see.
            device: where the networks are.
            files: their weights, as in `model.json`.

        Raises:
            UsageError: OpenVINO is asked for, but it is not installed, or the device is no CPU.
        """
        if self.ranges is not None or self.backend == "openvino":
            require_openvino("--backend openvino", device)
            ranges = self.ranges or {file: {} for file in files}
            return tuple(_openvino(network, patch, ranges[file]) for network, file in zip(networks, files, strict=True))
        if self.backend is not None:
            return tuple(_by_torch(network, self.backend, self.listener) for network in networks)
        path = cache_folder() / "backends" / f"{_key(topology, patch, device)}.json"
        chooser = Chooser(candidates(device), path)
        return tuple(_Changing(network, patch, device, chooser, self.listener) for network in networks)


def candidates(device: str) -> tuple[Backend, ...]:
    """What may be fastest on a device, in the order of trial."""
    if device.startswith("cuda"):
        return "torch", "torch-channels-last", "torch-compiled"
    if device != "cpu":
        return ("torch",)
    # Channels last never won on CPUs where it was measured, nor did compiling against OpenVINO.
    return ("torch", "openvino") if has_openvino() else ("torch", "torch-compiled")


def has_openvino() -> bool:
    """Whether OpenVINO is installed."""
    return importlib.util.find_spec("openvino") is not None


def require_openvino(option: str, device: str) -> None:
    """Refuse what OpenVINO cannot do here.

    Raises:
        UsageError: naming the option that wants it.
    """
    if not has_openvino():
        raise UsageError(f"{option} needs OpenVINO: pip install 'voxfit[openvino]'.")
    if device != "cpu":
        raise UsageError(f"{option} is for CPUs, but the device is {device}. Add --device cpu, or leave it out.")


def require_int8(backend: Backend | None, device: str) -> None:
    """Refuse INT8 where it cannot be.

    Raises:
        UsageError: the backend is not OpenVINO, or OpenVINO cannot be had.
    """
    if backend not in (None, "openvino"):
        raise UsageError(f"--precision int8 --backend {backend}: only openvino computes with 8 bits.")
    require_openvino("--precision int8", device)


def cache_folder() -> Path:
    """Where choices are kept: VOXFIT_CACHE, or `voxfit` in XDG_CACHE_HOME or ~/.cache."""
    if chosen := os.environ.get("VOXFIT_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "voxfit"


class Chooser:
    """Finds the fastest of several backends while they work.

    Args:
        candidates: in the order of trial; the first one always works.
        path: the file that keeps the choice; one that is damaged is not read, one that cannot be written is left out.

    Attributes:
        current: the backend for the next pass.
        settled: whether nothing is left to try.
    """

    def __init__(self, candidates: Sequence[Backend], path: Path) -> None:
        self.path = path
        self.current: Backend = candidates[0]
        self.settled = len(candidates) == 1
        self._fallback = candidates[0]
        self._untried = list(candidates[1:])
        self._worked = 0.0
        self._seconds: dict[Backend, deque[float]] = {}
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
        if self._untried and self._worked >= _REPAYS_AFTER[self._untried[0]]:
            self.current = self._untried.pop(0)
            return
        medians: dict[str, float] = {name: median(values) for name, values in self._seconds.items()}
        self.current = min(self._seconds, key=lambda name: medians[name])
        if not self._untried:
            self.settled = True
            with suppress(WorkspaceError):
                BackendChoice(backend=self.current, seconds=medians).save(self.path)

    def drop(self) -> None:
        """The current backend fails on this machine; the first one goes on."""
        self._seconds.pop(self.current, None)
        self.current = self._fallback
        self.settled = self.settled or not self._untried


class _Changing:
    """A network that runs by the backend that the chooser names."""

    def __init__(self, network: UNet, patch: Sequence[int], device: str, chooser: Chooser, listener: Listener) -> None:
        self.network = network
        self.patch = patch
        self.device = device
        self.chooser = chooser
        self.listener = listener
        self.made: dict[Backend, Network] = {}

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        backend = self.chooser.current
        first = backend not in self.made
        begun = perf_counter()
        try:
            if first:
                self.made[backend] = self._convert(backend)
            logits = self.made[backend](batch)
        except Exception as error:  # compilers fail in many ways
            if backend == "torch":
                raise
            self.listener.warn(f"{backend} does not work here, PyTorch goes on without it ({_first_line(error)}).")
            self.chooser.drop()
            return self(batch)
        if not self.chooser.settled:
            if self.device.startswith("cuda"):
                torch.cuda.synchronize(self.device)
            self.chooser.note(len(batch), perf_counter() - begun, first=first)
        return logits

    def _convert(self, backend: Backend) -> Network:
        if backend == "openvino":
            return _openvino(self.network, self.patch)
        return torch.compile(self.network) if backend == "torch-compiled" else _by_torch(self.network, backend)


class _Compiled:
    """A compiled network; the plain one where compilation fails."""

    def __init__(self, network: UNet, listener: Listener) -> None:
        self.network: Network = network
        self.run: Network = torch.compile(network)
        self.listener = listener

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        try:
            return self.run(batch)
        except Exception as error:  # compilers fail in many ways
            if self.run is self.network:
                raise
            self.listener.warn(f"The network cannot be compiled here and runs as it is ({_first_line(error)}).")
            self.run = self.network
            return self.run(batch)


def _by_torch(network: UNet, backend: Backend, listener: Listener | None = None) -> Network:
    match backend:
        case "torch-compiled":
            return _Compiled(network, listener or Listener())
        case "torch-channels-last":
            return _channels_last(network)
        case _:
            return network


def _channels_last(network: UNet) -> Network:
    flat = isinstance(network.head, torch.nn.Conv2d)
    order = torch.channels_last if flat else torch.channels_last_3d
    # The caller's network keeps its memory order: it is still timed against this one.
    turned = copy.deepcopy(network).to(memory_format=order)  # type: ignore[call-overload]

    def run(batch: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = turned(batch.contiguous(memory_format=order))
        return logits

    return run


def _openvino(network: UNet, patch: Sequence[int], ranges: Mapping[str, Range] | None = None) -> Network:
    from voxfit.inference.openvino_graph import OpenVinoNetwork

    return OpenVinoNetwork(network, patch, ranges)


def _key(topology: Topology, patch: Sequence[int], device: str) -> str:
    """Digest of what a choice depends on."""
    where = torch.cuda.get_device_name(device) if device.startswith("cuda") else processor_name()
    versions = [torch.__version__, importlib.metadata.version("openvino") if has_openvino() else None]
    threads = [torch.get_num_threads(), available_cores()]
    return digest_of([topology.model_dump(mode="json"), list(patch), device, where, threads, versions])


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

"""All backends, and predictors that use one of them, or whichever is fastest; all compute the same, to rounding errors.

PyTorch is imported only where it runs networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from voxfit.core.errors import UsageError, VoxfitError, first_line
from voxfit.core.progress import Listener
from voxfit.inference.arrays import Arrays
from voxfit.inference.backend import Backend, NetworkSource
from voxfit.inference.choosing import FALLBACK, Chooser, choice_path
from voxfit.inference.int8_json import Range
from voxfit.inference.model_json import Member
from voxfit.inference.openvino_backend import OpenVinoBackend
from voxfit.inference.predictor import Network, Predictor, predictor_of
from voxfit.inference.torch_backend import TorchBackend
from voxfit.inference.weights import verified_files
from voxfit.planning.architecture import UNET
from voxfit.planning.plan import Plan

BACKENDS: dict[str, Backend] = {
    "torch": TorchBackend("torch"),
    "torch-channels-last": TorchBackend("torch-channels-last"),
    "torch-compiled": TorchBackend("torch-compiled"),
    "openvino": OpenVinoBackend(),
}


def parse_backend(name: str) -> str | None:
    """The name of a backend; None for "auto".

    Raises:
        UsageError: there is none of this name.
    """
    if name != "auto" and name not in BACKENDS:
        raise UsageError(f"--backend {name}: there are auto, {', '.join(BACKENDS)}.")
    return None if name == "auto" else name


def require_int8(option: str, name: str | None, device: str, network: str = UNET) -> Backend:
    """The backend that computes with 8 bits.

    Args:
        option: that asks for INT8, as the user wrote it.
        name: of the backend that is asked for; None for any.
        device: where networks run.
        network: its name; default: the U-Net.

    Raises:
        UsageError: this backend does not compute with 8 bits, or not here.
    """
    offered = [backend for backend in BACKENDS.values() if "int8" in backend.precisions]
    chosen = next((backend for backend in offered if name in (None, backend.name)), None)
    if chosen is None:
        names = " and ".join(backend.name for backend in offered)
        raise UsageError(f"{option} --backend {name}: only {names} computes with 8 bits.")
    chosen.require(option, device, network)
    return chosen


def candidates(device: str, network: str = UNET) -> dict[str, float]:
    """The backends that may be fastest, in the order of trial, each with its `repays_after`."""
    if network != UNET:
        return {FALLBACK: 0.0}
    repays = {
        backend.name: seconds
        for backend in BACKENDS.values()
        if not backend.why_not(device, network) and (seconds := backend.repays_after(device)) is not None
    }
    return dict(sorted(repays.items(), key=lambda item: item[1]))


@dataclass(frozen=True)
class BackendOptions:
    """How the networks of a model are run.

    Attributes:
        backend: its name; None finds the fastest while the job runs.
        ranges: by the weights file of a network, of the tensors that 8 bits hold (`voxfit.inference.rounding`): INT8.
        listener: hears of a backend that fails; PyTorch goes on then.
    """

    backend: str | None = FALLBACK
    ranges: Mapping[str, Mapping[str, Range]] | None = None
    listener: Listener = field(default_factory=Listener)

    def predictor(
        self, plan: Plan, member: Member, folder: Path, device: str, *, mirror: bool = True, memory: int | None = None
    ) -> Predictor:
        """The predictor of a member of a model. It is not for several threads at once.

        Args:
            plan: of the model.
            member: its configuration and weights.
            folder: of the model.
            device: where the networks run.
            mirror: test-time mirroring.
            memory: bytes that a process may use; nothing is tried then that takes more for a while.

        Raises:
            ModelError: a weights file is missing, damaged, or not the one that the model was made with.
            UsageError: the backend cannot run the networks here.
        """
        name, ranges = member.configuration, self.ranges or {}
        sources = [
            NetworkSource(plan, name, path, device, ranges.get(file))
            for path, file in zip(verified_files(member, folder), member.weights, strict=True)
        ]
        finish = partial(predictor_of, plan, name, mirror=mirror, memory=memory)
        if self.ranges is not None:
            backend = require_int8("--precision int8", self.backend, device, plan.network)
            return finish([backend.load(source) for source in sources], backend.arrays(device))
        if self.backend is not None:
            BACKENDS[self.backend].require(f"--backend {self.backend}", device, plan.network)
            offered = {self.backend: 0.0}
        else:
            offered = candidates(device, plan.network)
        packages = {BACKENDS[item].package for item in offered}
        path = choice_path(plan.topology(name), plan.configurations[name].patch_size, device, packages)
        chooser = Chooser(offered if memory is None else dict([*offered.items()][:1]), path)
        arrays = BACKENDS[chooser.current].arrays(device)
        return finish([AutoNetwork(source, chooser, arrays, self.listener) for source in sources], arrays)


class AutoNetwork:
    """A network that runs by the backend that the chooser names.

    Args:
        source: of the network.
        chooser: common to all networks of a configuration.
        arrays: that it takes and returns, whatever the backend.
        listener: hears of a backend that fails.

    Raises:
        ModelError: the weights are missing, damaged or of another network.
    """

    def __init__(self, source: NetworkSource, chooser: Chooser, arrays: Arrays, listener: Listener) -> None:
        self.source = source
        self.chooser = chooser
        self.arrays = arrays
        self.listener = listener
        self.made: dict[str, Network] = {}
        self._network()  # at once: what is wrong with the weights is said before images are read

    def __call__(self, batch: Any) -> Any:
        """(batch, channel, *patch) to (batch, output, *patch)."""
        first = self.chooser.current not in self.made
        begun = perf_counter()
        network = self._network()
        try:
            outputs = network(batch)
        except Exception as error:  # compilers fail in many ways
            self._drop(error)
            return self(batch)
        if self.chooser.settled:
            self.made = {self.chooser.current: network}
        else:
            self.arrays.synchronize()
            self.chooser.note(len(batch), perf_counter() - begun, first=first)
        return outputs

    def _network(self) -> Network:
        name = self.chooser.current
        if name not in self.made:
            backend, device = BACKENDS[name], self.source.device
            try:
                self.made[name] = between(backend.load(self.source), backend.arrays(device), self.arrays)
            except VoxfitError:
                raise
            except Exception as error:
                self._drop(error)
                return self._network()
        return self.made[name]

    def _drop(self, error: Exception) -> None:
        name = self.chooser.current
        if name == FALLBACK:
            raise error
        self.listener.warn(f"{name} does not work here, PyTorch goes on without it ({first_line(error)}).")
        self.chooser.drop()


def between(network: Network, own: Arrays, wanted: Arrays) -> Network:
    """A network for the arrays of another library.

    Args:
        network: takes and returns `own`.
        own: its arrays.
        wanted: those that the result takes and returns.
    """
    if type(own) is type(wanted):
        return network
    return lambda batch: wanted.here(own.to_numpy(network(own.here(wanted.to_numpy(batch)))))

"""What runs the networks: PyTorch, PyTorch compiled, or OpenVINO; all compute the same, to rounding errors.

"auto" takes what `voxfit.inference.choosing` finds. PyTorch is imported only where it runs networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from voxfit.core.errors import ModelError, UsageError, VoxfitError, first_line
from voxfit.core.progress import Listener
from voxfit.inference.arrays import NumpyArrays
from voxfit.inference.choosing import BACKENDS, Backend, Chooser, candidates, choice_path, has_openvino
from voxfit.inference.int8_json import Range
from voxfit.inference.model_json import Member
from voxfit.inference.predictor import Network, Predictor
from voxfit.inference.weights import predictor_of, read_weights, verified_files
from voxfit.planning.architecture import UNET
from voxfit.planning.plan import ConfigurationName, Plan


def parse_backend(name: str) -> Backend | None:
    """A backend by name; None for "auto".

    Raises:
        UsageError: there is none of this name.
    """
    found = next((known for known in BACKENDS if known == name), None)
    if found is None and name != "auto":
        raise UsageError(f"--backend {name}: there are auto, {', '.join(BACKENDS)}.")
    return found


def require_openvino(option: str, device: str) -> None:
    """Refuse what OpenVINO cannot do here.

    Raises:
        UsageError: naming the option that wants it.
    """
    if not has_openvino():
        raise UsageError(f"{option} needs OpenVINO: pip install 'voxfit[openvino]'.")
    if device != "cpu":
        raise UsageError(f"{option} is for CPUs, but the device is {device}. Add --device cpu, or leave it out.")


def require_unet(plan: Plan) -> None:
    """Refuse what is written for the U-Net where the network is another package's.

    Raises:
        UsageError: naming it.
    """
    if plan.network != UNET:
        raise UsageError(f"The network {plan.network!r} of another package runs by PyTorch in float32 only.")


def require_int8(backend: Backend | None, device: str) -> None:
    """Refuse INT8 where it cannot be.

    Raises:
        UsageError: the backend is not OpenVINO, or OpenVINO cannot be had.
    """
    if backend not in (None, "openvino"):
        raise UsageError(f"--precision int8 --backend {backend}: only openvino computes with 8 bits.")
    require_openvino("--precision int8", device)


@dataclass(frozen=True)
class BackendOptions:
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
            UsageError: OpenVINO is asked for, but it is not installed, or the device is no CPU.
        """
        name = member.configuration
        sources = [_Source(plan, name, path, device, self.listener) for path in verified_files(member, folder)]
        finish = partial(predictor_of, plan, name, mirror=mirror, memory=memory)
        if self.ranges is not None or self.backend == "openvino":
            require_openvino("--backend openvino", device)
            require_unet(plan)
            ranges = [(self.ranges or {}).get(file) for file in member.weights]
            made = [source.by_openvino(some) for source, some in zip(sources, ranges, strict=True)]
            return finish(made, NumpyArrays())
        chooser = self._chooser(plan, name, device, limited=memory is not None)
        if chooser.current == "openvino":
            return finish([_Changing(source.for_numpy, chooser, self.listener) for source in sources], NumpyArrays())

        from voxfit.inference.torch_networks import TorchArrays, synchronize

        wait = partial(synchronize, device)
        changing = [_Changing(source.by_torch, chooser, self.listener, wait) for source in sources]
        return finish(changing, TorchArrays(device))

    def _chooser(self, plan: Plan, name: ConfigurationName, device: str, *, limited: bool) -> Chooser:
        path = choice_path(plan.topology(name), plan.configurations[name].patch_size, device)
        if self.backend is not None:
            return Chooser((self.backend,), path)
        offered = candidates(device) if plan.network == UNET else ("torch",)
        return Chooser(offered[: 1 if limited else None], path)


@dataclass(frozen=True)
class _Source:
    """A network that any backend may run."""

    plan: Plan
    name: ConfigurationName
    path: Path
    device: str
    listener: Listener

    def by_openvino(self, ranges: Mapping[str, Range] | None = None) -> Network:
        """For arrays of NumPy; with `ranges` in INT8."""
        from voxfit.inference.openvino_graph import OpenVinoNetwork

        weights, patch = read_weights(self.path), self.plan.configurations[self.name].patch_size
        try:
            return OpenVinoNetwork(self.plan.topology(self.name), weights, patch, self.plan.activation, ranges)
        except ModelError as error:
            raise ModelError(f"{self.path}: {error}") from None

    def by_torch(self, backend: Backend) -> Network:
        """For tensors on the device."""
        from voxfit.inference.torch_networks import TorchNetwork, by_torch, load_network

        network = load_network(self.plan, self.name, self.path).to(self.device).eval()
        return TorchNetwork(by_torch(network, backend, self.listener), self.plan.activation)

    def for_numpy(self, backend: Backend) -> Network:
        """For arrays of NumPy."""
        if backend == "openvino":
            return self.by_openvino()
        from voxfit.inference.torch_networks import on_numpy

        return on_numpy(self.by_torch(backend))


class _Changing:
    """A network that runs by the backend that the chooser names.

    Args:
        make: the network as a backend runs it.
        chooser: common to all networks of a configuration.
        listener: hears of a backend that fails.
        synchronize: waits for what a device still computes.
    """

    def __init__(
        self,
        make: Callable[[Backend], Network],
        chooser: Chooser,
        listener: Listener,
        synchronize: Callable[[], None] = lambda: None,
    ) -> None:
        self.make = make
        self.chooser = chooser
        self.listener = listener
        self.synchronize = synchronize
        self.made: dict[Backend, Network] = {}
        self._network()  # now: what is wrong with the weights is said before images are read

    def __call__(self, batch: Any) -> Any:
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
            self.synchronize()
            self.chooser.note(len(batch), perf_counter() - begun, first=first)
        return outputs

    def _network(self) -> Network:
        backend = self.chooser.current
        if backend not in self.made:
            try:
                self.made[backend] = self.make(backend)
            except VoxfitError:
                raise
            except Exception as error:
                self._drop(error)
                return self._network()
        return self.made[backend]

    def _drop(self, error: Exception) -> None:
        backend = self.chooser.current
        if backend == "torch":
            raise error
        self.listener.warn(f"{backend} does not work here, PyTorch goes on without it ({first_line(error)}).")
        self.chooser.drop()

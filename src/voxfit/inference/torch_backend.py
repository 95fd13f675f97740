"""PyTorch as a backend: networks as they are, with channels last in memory, or compiled."""

from __future__ import annotations

from voxfit.inference.arrays import Arrays
from voxfit.inference.backend import Backend, NetworkSource, is_installed
from voxfit.inference.predictor import Network

_REPAYS_AFTER = {
    ("torch", "cuda"): 0.0,
    ("torch", "mps"): 0.0,
    ("torch", "cpu"): 10.0,
    ("torch-channels-last", "cuda"): 1.0,
    ("torch-compiled", "cuda"): 300.0,
    ("torch-compiled", "cpu"): 300.0,
}
"""Seconds, see `Backend.repays_after`. That of PyTorch on CPUs is beside OpenVINO, which was 1.4 times as fast where it
was measured (docs/benchmarks.md). Channels last never won on CPUs where it was measured."""


class TorchBackend(Backend):
    """See `Backend`; it runs every network, on every device."""

    package = "torch"

    def __init__(self, name: str) -> None:
        self.name = name

    def repays_after(self, device: str) -> float | None:
        """By the kind of device."""
        kind = device.partition(":")[0]
        if self.name == "torch-compiled" and kind == "cpu" and is_installed("openvino"):
            return None  # it never won against OpenVINO where both were measured
        return _REPAYS_AFTER.get((self.name, kind))

    def arrays(self, device: str) -> Arrays:
        """Tensors on the device."""
        from voxfit.inference.torch_networks import TorchArrays

        return TorchArrays(device)

    def load(self, source: NetworkSource) -> Network:
        """For tensors on the device."""
        from voxfit.inference.torch_networks import TorchNetwork, by_torch, load_network

        network = load_network(source.plan, source.configuration, source.path).to(source.device).eval()
        return TorchNetwork(by_torch(network, self.name), source.plan.activation)

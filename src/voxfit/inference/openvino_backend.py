"""OpenVINO as a backend: the U-Net on CPUs, in float32 or INT8, without importing PyTorch."""

from __future__ import annotations

from voxfit.core.errors import ModelError
from voxfit.inference.backend import Backend, NetworkSource, is_installed
from voxfit.inference.predictor import Network
from voxfit.inference.weights import read_weights
from voxfit.planning.architecture import UNET


class OpenVinoBackend(Backend):
    """See `Backend`."""

    name = package = "openvino"
    precisions = ("float32", "int8")

    def why_not(self, device: str, network: str) -> str:
        """It is not installed, the device is no CPU, or the network is not the U-Net."""
        if not is_installed(self.package):
            return "needs OpenVINO: pip install 'voxfit[openvino]'."
        if device != "cpu":
            return f"is for CPUs, but the device is {device}. Add --device cpu, or leave it out."
        if network != UNET:
            return f"is for the U-Net. The network {network!r} of another package runs by PyTorch in float32 only."
        return ""

    def repays_after(self, device: str) -> float | None:
        """On CPUs it is the first."""
        return 0.0 if device == "cpu" else None

    def load(self, source: NetworkSource) -> Network:
        """For arrays of NumPy."""
        from voxfit.inference.openvino_graph import OpenVinoNetwork

        weights, activation = read_weights(source.path), source.plan.activation
        try:
            return OpenVinoNetwork(source.topology, weights, source.patch_size, activation, source.ranges)
        except ModelError as error:
            raise ModelError(f"{source.path}: {error}") from None

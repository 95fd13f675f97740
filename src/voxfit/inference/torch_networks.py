"""Networks that PyTorch runs: as they are, channels last, or compiled; on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from voxfit.core.errors import ModelError
from voxfit.inference.arrays import Arrays, cpu_pass_voxels
from voxfit.inference.predictor import Predictor, predictor_of
from voxfit.inference.weights import fitting, read_weights, require_no_others
from voxfit.networks.unet import build_network
from voxfit.planning.plan import Activation, ConfigurationName, Plan

Module = Callable[[torch.Tensor], torch.Tensor]
"""Takes (batch, channel, *patch), returns (batch, output, *patch) logits."""

_PASS_VOXELS = {"cuda": 2**22}


class TorchArrays(Arrays):
    """Tensors on one device."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.pass_voxels = _PASS_VOXELS.get(self.device.type) or cpu_pass_voxels()

    def here(self, array: Any) -> torch.Tensor:
        """A tensor on the device."""
        if isinstance(array, np.ndarray) and not (array.flags.writeable and min(array.strides, default=0) >= 0):
            array = array.copy()  # PyTorch knows no arrays that may only be read, and none that run backwards
        return torch.as_tensor(array, device=self.device)

    def to_numpy(self, array: torch.Tensor) -> NDArray[np.float32]:
        """On the CPU."""
        values: NDArray[np.float32] = array.cpu().numpy()
        return values

    def zeros(self, shape: Sequence[int]) -> torch.Tensor:
        """A tensor on the device."""
        if self.device.type == "cpu":
            # NumPy asks the system for large pages, PyTorch does not: they are there in a quarter of the time.
            return torch.from_numpy(np.zeros(shape, np.float32))
        return torch.zeros(tuple(shape), device=self.device)

    def join(self, arrays: Sequence[torch.Tensor], axis: int) -> torch.Tensor:
        """See `Arrays`."""
        return arrays[0] if len(arrays) == 1 else torch.cat(list(arrays), axis)

    def flip(self, array: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
        """A copy."""
        return array.flip(list(axes))

    def add_product(self, total: torch.Tensor, part: torch.Tensor, weights: torch.Tensor) -> None:
        """In one step."""
        total.addcmul_(part, weights)

    def for_sums(self, size: int) -> Arrays:
        """With the networks, where that leaves them two thirds of the memory."""
        if self.device.type != "cuda" or size < torch.cuda.mem_get_info(self.device)[0] // 3:
            return self
        return TorchArrays()

    def synchronize(self) -> None:
        """On CPUs nothing is computed later."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class TorchNetwork:
    """What a module says of tiles, as probabilities, or as logits where `activation` is None.

    On a GPU it computes in half precision, as it was trained, and in single where that is not enough.
    """

    def __init__(self, module: Module, activation: Activation) -> None:
        self.module = module
        self.activation = activation

    @torch.inference_mode()
    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """(batch, channel, *patch) to (batch, output, *patch)."""
        logits = self._logits(batch)
        match self.activation:
            case "softmax":
                return logits.softmax(dim=1)
            case "sigmoid":
                return logits.sigmoid()
            case None:
                return logits

    def _logits(self, batch: torch.Tensor) -> torch.Tensor:
        if batch.is_cuda:
            with torch.autocast("cuda", torch.float16):
                logits = self.module(batch)
            if torch.isfinite(logits).all():
                return logits.float()
        return self.module(batch).float()


def by_torch(network: torch.nn.Module, name: str) -> Module:
    """The module as a backend of PyTorch runs it.

    Args:
        network: in evaluation mode, on its device; its weights may be turned to another order in memory.
        name: of the backend.
    """
    match name:
        case "torch-compiled":
            compiled = torch.compile(network)
            # Graphs are compiled for one layout: views into images of several sizes would be several.
            return lambda batch: compiled(batch.contiguous())
        case "torch-channels-last":
            return _channels_last(network)
        case _:
            return network


def _channels_last(network: torch.nn.Module) -> Module:
    flat = isinstance(network.head, torch.nn.Conv2d)
    order = torch.channels_last if flat else torch.channels_last_3d
    turned = network.to(memory_format=order)  # type: ignore[call-overload]

    def run(batch: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = turned(batch.contiguous(memory_format=order))
        return logits

    return run


def torch_predictor(
    plan: Plan,
    name: ConfigurationName,
    networks: Sequence[torch.nn.Module],
    device: str,
    *,
    also_without_tta: bool = False,
) -> Predictor:
    """The predictor of one configuration, by modules as they are: the same bits every time.

    Args:
        plan: patch, outputs, and how predictions are averaged.
        name: of the configuration.
        networks: one for each fold; they are moved to the device.
        device: where to.
        also_without_tta: see `Predictor`.
    """
    activation = plan.activation
    made = [TorchNetwork(network.to(device).eval(), activation) for network in networks]
    return predictor_of(plan, name, made, TorchArrays(device), also_without_tta=also_without_tta)


def load_network(plan: Plan, name: ConfigurationName, path: Path) -> torch.nn.Module:
    """Build a network and load its weights.

    Raises:
        ModelError: the file is missing, damaged, or of another network.
    """
    network, weights = build_network(plan.topology(name)), read_weights(path)
    shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    try:
        fit = {key: torch.from_numpy(fitting(weights, key, shape)) for key, shape in shapes.items()}
        require_no_others(weights.keys() - shapes)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    network.load_state_dict(fit)
    return network

"""How training steps are executed on a device: precision, compilation, memory format, and how fast that is."""

from __future__ import annotations

import gc
import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from time import perf_counter
from typing import ClassVar, cast

import lightning_fabric
import torch
from torch.nn import functional

from voxfit.core.memory import trim_memory
from voxfit.core.records import Record
from voxfit.networks.unet import build_network
from voxfit.planning.architecture import Topology
from voxfit.planning.recipes import SGD, Adam, Recipe
from voxfit.planning.settings import given_seconds

_PEAK_SECONDS = 0.2
_WORTH_SECONDS = {"cpu": 7200.0, "cuda": 900.0}
"""Ways of execution are tried for trainings that take longer: compiling for each takes a minute or two on a CPU."""
_FEWEST_STEPS = 1000
"""Trainings with fewer steps are not even timed for that."""
_TRIED_SHARE = 0.02
"""Of a training: when trying has taken that long, no further way is tried."""
_CLEARLY = 0.97
"""Another way is taken where its step takes less than this share of the plain one's."""


class StepMode(Record):
    """A way of executing training steps. Each rounds otherwise, so a training keeps its own to its end.

    Attributes:
        compiled: by torch.compile.
        channels_last: weights and images have their channels innermost in memory.
    """

    schema_name: ClassVar[str] = "voxfit.execution/1"
    compiled: bool = False
    channels_last: bool = False

    @property
    def description(self) -> str:
        """For people."""
        names = [("compiled", self.compiled), ("channels last", self.channels_last)]
        return " + ".join(name for name, chosen in names if chosen) or "plain"


PLAIN = StepMode()
_OTHERS = (
    StepMode(channels_last=True),
    StepMode(compiled=True, channels_last=True),
    StepMode(compiled=True),
)


class Engine:
    """A network, its optimiser, and how they run on a device.

    Args:
        topology: of the network.
        recipe: its optimiser, largest gradient and deep supervision.
        seed: of the initial weights.
        device: "cpu", "cuda" or "mps".
        execution: the way of the training steps.

    Attributes:
        network: the bare module; its weights have their own names, compiled or not.
        optimizer: of its weights.
        device: where they are.
        execution: as given.
    """

    def __init__(self, topology: Topology, recipe: Recipe, seed: int, device: str, execution: StepMode = PLAIN) -> None:
        self.execution = execution
        self.max_grad_norm = recipe.max_grad_norm
        self.fabric = make_fabric(device)
        self.device = self.fabric.device
        # Steps have one shape: cuDNN may try which of its algorithms is fastest, unless bits must repeat.
        torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
        network = build_network(topology, seed, deep_supervision=recipe.deep_supervision)
        self._format = torch.contiguous_format
        if execution.channels_last:
            self._format = torch.channels_last if topology.dimension == 2 else torch.channels_last_3d
        for weight in network.parameters():
            if weight.ndim == topology.dimension + 2:
                weight.data = weight.data.contiguous(memory_format=self._format)
        self.network = network.to(self.device)
        self.optimizer = make_optimizer(self.network, recipe)
        self._forward: Callable[[torch.Tensor], torch.Tensor | list[torch.Tensor]] = self.network
        if execution.compiled:
            self._forward = torch.compile(self.network)

    def levels(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Logits of the supervised levels, full resolution first, for training."""
        with self._autocast():
            outputs = self._forward(image.contiguous(memory_format=self._format))
        return outputs if isinstance(outputs, list) else [outputs]

    def logits(self, image: torch.Tensor) -> torch.Tensor:
        """Logits at full resolution, of a network in its evaluation mode; never compiled."""
        with self._autocast():
            return cast(torch.Tensor, self.network(image.contiguous(memory_format=self._format)))

    def update(self, loss: torch.Tensor) -> bool:
        """Take a step down the gradient of a loss; False, and no step, where loss or gradient are not finite."""
        if not torch.isfinite(loss):
            return False
        loss.backward()
        weights = list(self.network.parameters())
        norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        finite = bool(torch.isfinite(norm))
        if finite:
            if self.max_grad_norm:
                torch.nn.utils.clip_grads_with_norm_(weights, self.max_grad_norm, norm)
            self.optimizer.step()
        # At once, so that gradients take no memory during the next forward pass.
        self.optimizer.zero_grad(set_to_none=True)
        return finite

    def synchronize(self) -> None:
        """Wait until the device has finished all operations."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _autocast(self) -> AbstractContextManager[None]:
        return self.fabric.autocast()


def make_fabric(device: str) -> lightning_fabric.Fabric:
    """The device and its precision: bf16 where a GPU has it, else float32 (CPUs lose by bf16)."""
    cuda = device.startswith("cuda")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it says the precision each time
    return lightning_fabric.Fabric(
        accelerator="cuda" if cuda else device,
        devices=1,
        precision="bf16-mixed" if cuda and torch.cuda.is_bf16_supported() else "32-true",
    )


def make_optimizer(network: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser of a recipe; the default is Adam as the paper has it (method.md [T3])."""
    rate, parameters = recipe.schedule.learning_rate, network.parameters()
    match recipe.optimizer:
        case Adam(weight_decay=decay, amsgrad=amsgrad):
            return torch.optim.Adam(parameters, rate, weight_decay=decay, amsgrad=amsgrad)
        case SGD(weight_decay=decay, momentum=momentum):
            return torch.optim.SGD(parameters, rate, momentum, weight_decay=decay, nesterov=momentum > 0)


def choose_execution(
    recipe: Recipe, measure: Callable[[StepMode], float], warn: Callable[[str], None], device: str = "cpu"
) -> tuple[StepMode, str]:
    """The fastest way to execute a training that is long enough to repay trying.

    Args:
        recipe: says how long it is.
        measure: seconds of a step; raises where a way does not work.
        warn: hears of ways that do not work.
        device: where it is.

    Returns:
        the way, and a sentence on it; an empty one where nothing was tried.
    """
    begun, schedule = perf_counter(), recipe.schedule
    worth = _WORTH_SECONDS.get(device.split(":", maxsplit=1)[0], _WORTH_SECONDS["cpu"])
    timed = given_seconds(recipe)
    steps = (schedule.epochs or 0) * recipe.steps_per_epoch
    if (timed or math.inf) < worth or (timed is None and steps < _FEWEST_STEPS):
        return PLAIN, ""
    times = {PLAIN: measure(PLAIN)}
    total = timed or steps * times[PLAIN]
    if total < worth:
        return PLAIN, ""
    for way in _OTHERS:
        if perf_counter() - begun > total * _TRIED_SHARE:
            break
        seconds = _try(way, measure, warn)
        if seconds is not None:
            times[way] = seconds
    best = min(times, key=times.__getitem__)
    if times[best] > times[PLAIN] * _CLEARLY:
        best = PLAIN
    listed = ", ".join(f"{way.description} {seconds:.3g} s" for way, seconds in times.items())
    return best, f"training steps are executed {best.description} (a step: {listed})"


def _try(way: StepMode, measure: Callable[[StepMode], float], warn: Callable[[str], None]) -> float | None:
    """Seconds of a step; None, and a warning, where a way does not work."""
    try:
        return measure(way)
    except Exception as error:  # whatever a compiler raises; the plain way is there
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().splitlines() or [""]
        warn(f"{way.description} does not work here and is not used ({type(error).__name__}: {reason[0][:160]}).")
        return None


@contextmanager
def determinism(wanted: bool) -> Iterator[None]:
    """Let the operations of the block give the same bits every time, on a GPU too, if that is wanted.

    Where torch has no deterministic operation, it warns. Here that is the gradient of max pooling: its sums are
    nondeterministic, but windows that do not overlap have nothing to sum.
    """
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    # cuBLAS reads this when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a host's or a device's memory is used up."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # The last two are all that oneDNN says when it gets no memory for a convolution.
    words = (
        "not enough memory",
        "can't allocate memory",
        "out of memory",
        "cannot allocate memory",
        "could not create a primitive",
        "could not execute a primitive",
    )
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def release_memory() -> None:
    """Give unused memory back to the system and the device, after a step that did not fit."""
    gc.collect()
    trim_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def free_bytes(device: torch.device) -> int:
    """Free memory of a GPU, or of this machine; 0 where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return 0
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@lru_cache
def peak_flops(device: str) -> float:
    """Operations a second that a convolution of many channels reaches, in the precision of training; measured.

    A product and its sum count two.
    """
    fabric = make_fabric(device)
    large = fabric.device.type == "cuda"
    channels, edge = (128, 96) if large else (64, 24)
    image = torch.randn(1, channels, edge, edge, edge, device=fabric.device)
    weight = torch.randn(channels, channels, 3, 3, 3, device=fabric.device)
    best, total = float("inf"), 0.0
    with torch.inference_mode(), fabric.autocast():
        while total < _PEAK_SECONDS:
            begun = perf_counter()
            functional.conv3d(image, weight, padding=1)
            if large:
                torch.cuda.synchronize(fabric.device)
            best = min(best, perf_counter() - begun)
            total += perf_counter() - begun
    return 2 * channels**2 * 27 * edge**3 / best

"""The U-Net as an OpenVINO graph, written node by node from topology and weights, in float32 or with tensors of 8 bits.

Tracing and converting a module takes seconds, and PyTorch. Written by hand the graph is there in a tenth of a second,
and each tensor that 8 bits hold has the name of the module of `voxfit.networks.unet` that makes it.
Biases in front of an instance norm are left out: the norm subtracts them again.

OpenVINO is optional; only `voxfit.inference.backends` imports this module, when it is wanted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as ops

from voxfit.core.parallel import available_cores
from voxfit.inference.int8_json import LEVELS, Range
from voxfit.inference.weights import fitting, require_no_others
from voxfit.planning.architecture import LEAKY_SLOPE, NORM_EPSILON, Topology
from voxfit.planning.plan import Activation

_WEIGHT_LEVELS = 255
"""-127 to 127: symmetric about zero."""
_WEIGHT_RANGE = 127 / 63
"""Of the largest weight, which becomes 63: a bit stays free. Processors without VNNI sum two products of 8 bits in 16
bits, and would cut off the sums of full ones; so the integers are the same on every processor."""

Axes = Sequence[int]
"""A number for each spatial axis."""


class OpenVinoNetwork:
    """A network that OpenVINO runs on the CPU. Not for several threads at once.

    Args:
        topology: of the network.
        weights: by PyTorch's names of the parameters.
        patch: size of the tiles, an edge for each spatial axis.
        activation: what makes probabilities of logits.
        ranges: of the tensors that 8 bits hold, see `voxfit.inference.rounding`; None: all is float32.
        threads: default: the available cores.

    Raises:
        ModelError: the weights are of another network.
    """

    def __init__(
        self,
        topology: Topology,
        weights: Mapping[str, NDArray[np.float32]],
        patch: Axes,
        activation: Activation = None,
        ranges: Mapping[str, Range] | None = None,
        threads: int | None = None,
    ) -> None:
        settings = {
            # OpenVINO's own choice would be bfloat16 or float16 where a processor has them.
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads or available_cores(),
        }
        graph = build_graph(topology, weights, patch, activation, ranges)
        self._request = _core().compile_model(graph, "CPU", settings).create_infer_request()

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """(batch, channel, *patch) to (batch, output, *patch), any batch size; the next pass writes there again."""
        image = np.ascontiguousarray(batch)
        outputs: NDArray[np.float32] = self._request.infer([image], share_inputs=True, share_outputs=True)[0]
        return outputs


@cache
def _core() -> openvino.Core:
    """One for the process, to its end.

    Each sets up a stack for signals, and puts back the one before when it is freed. Of two, the first to be freed
    leaves the thread on a stack that is gone, and the next signal, such as the SIGTERM of a cluster, is a crash.
    """
    return openvino.Core()


def build_graph(
    topology: Topology,
    weights: Mapping[str, NDArray[np.float32]],
    patch: Axes,
    activation: Activation = None,
    ranges: Mapping[str, Range] | None = None,
) -> openvino.Model:
    """The graph of a network, for batches of any size; see `OpenVinoNetwork`."""
    image = ops.parameter([-1, topology.in_channels, *patch], np.float32, name="image")
    builder = _Builder(topology, weights, ranges or {})
    outputs = builder.network(image)
    require_no_others(builder.unused)
    if activation:
        outputs = ops.softmax(outputs, 1) if activation == "softmax" else ops.sigmoid(outputs)
    return openvino.Model([outputs], [image], "unet")


class _Tensor(NamedTuple):
    """A node's output.

    Attributes:
        node: of the graph.
        channels: of it.
        rounded: 8 bits hold it.
    """

    node: Any
    channels: int
    rounded: bool = False


class _Builder:
    """Appends nodes for the modules of a U-Net, which go by their names there.

    Args:
        topology: of the network.
        weights: by name.
        ranges: by the name of the module that makes the tensor.
    """

    def __init__(
        self, topology: Topology, weights: Mapping[str, NDArray[np.float32]], ranges: Mapping[str, Range]
    ) -> None:
        self.topology = topology
        self.weights = weights
        self.unused = set(weights)
        self.ranges = ranges
        axes = topology.dimension
        self.ones, self.zeros = [1] * axes, [0] * axes
        self.spatial = ops.constant(np.arange(2, 2 + axes, dtype=np.int64))

    def network(self, image: Any) -> Any:
        """Logits of an image."""
        topology, state = self.topology, _Tensor(image, self.topology.in_channels)
        residual, pooled = topology.block == "residual", topology.downsampling == "max"
        if residual:
            state = self.conv_block(state, "stem", topology.features[0], topology.kernels[0], self.ones)
        skips: list[_Tensor] = []
        for level, (width, kernel) in enumerate(zip(topology.features, topology.kernels, strict=True)):
            stride: Axes = topology.strides[level]
            if pooled and level:
                state, stride = self.max_pool(state, stride), self.ones
            for number in range(topology.encoder_blocks[level]):
                block = self.residual_block if residual else self.conv_block
                state = block(state, f"encoder.{level}.{number}", width, kernel, self.ones if number else stride)
            skips.append(state)
        for level in range(len(topology.features) - 2, -1, -1):
            wider, skip = self.transposed(state, level), skips[level]
            channels, rounded = wider.channels + skip.channels, wider.rounded and skip.rounded
            state = _Tensor(ops.concat([wider.node, skip.node], 1), channels, rounded)
            for number in range(topology.decoder_blocks[level]):
                name = f"decoder.{level}.{number}"
                state = self.conv_block(state, name, topology.features[level], topology.kernels[level], self.ones)
        return self.add_bias(self.convolution(state, "head", topology.out_channels, self.ones, self.ones), "head").node

    def conv_block(
        self, state: _Tensor, name: str, outputs: int, kernel: Axes, stride: Axes, *, active: bool = True
    ) -> _Tensor:
        """Convolution, instance norm, and the activation where there is one."""
        made = self.convolution(state, f"{name}.0", outputs, kernel, stride)
        if self.topology.bias:
            self.take(f"{name}.0.bias", (outputs,))
        normed = self.norm(made, f"{name}.1")
        return self.round(self.activate(normed) if active else normed, name)

    def residual_block(self, state: _Tensor, name: str, outputs: int, kernel: Axes, stride: Axes) -> _Tensor:
        """Two convolutions and the skip connection."""
        changed = self.conv_block(state, f"{name}.first", outputs, kernel, stride)
        changed = self.conv_block(changed, f"{name}.second", outputs, kernel, self.ones, active=False)
        skip = state
        if set(stride) != {1}:
            size = list(stride)
            pooled = ops.avg_pool(skip.node, size, self.zeros, self.zeros, size, exclude_pad=False)
            skip = self.round(_Tensor(pooled, skip.channels), f"{name}.pool")
        if skip.channels != outputs:
            projected = self.convolution(skip, f"{name}.projection.0", outputs, self.ones, self.ones)
            skip = self.norm(projected, f"{name}.projection.1")
        return self.round(self.activate(_Tensor(ops.add(changed.node, skip.node), outputs)), name)

    def convolution(self, state: _Tensor, name: str, outputs: int, kernel: Axes, stride: Axes) -> _Tensor:
        """Without its bias."""
        weight = self.weight(name, (outputs, state.channels, *kernel), 0, rounded=state.rounded)
        padding = [size // 2 for size in kernel]
        return _Tensor(ops.convolution(state.node, weight, list(stride), padding, padding, self.ones), outputs)

    def transposed(self, state: _Tensor, level: int) -> _Tensor:
        """The transposed convolution up to a level, whose output no norm follows."""
        name, outputs, stride = f"ups.{level}", self.topology.features[level], self.topology.strides[level + 1]
        weight = self.weight(name, (state.channels, outputs, *stride), 1, rounded=state.rounded)
        zeros = self.zeros
        made = ops.convolution_backprop_data(
            state.node, weight, list(stride), pads_begin=zeros, pads_end=zeros, dilations=self.ones
        )
        wider = _Tensor(made, outputs)
        return self.round(self.add_bias(wider, name) if self.topology.bias else wider, name)

    def max_pool(self, state: _Tensor, stride: Axes) -> _Tensor:
        """Integers stay integers."""
        size = list(stride)
        return state._replace(node=ops.max_pool(state.node, size, self.ones, self.zeros, self.zeros, size).output(0))

    def norm(self, state: _Tensor, name: str) -> _Tensor:
        """Instance norm with scale and shift."""
        normed = ops.mvn(state.node, self.spatial, True, NORM_EPSILON, "inside_sqrt")
        scale, shift = (self.per_channel(f"{name}.{kind}", state.channels) for kind in ("weight", "bias"))
        return state._replace(node=ops.add(ops.multiply(normed, scale), shift))

    def activate(self, state: _Tensor) -> _Tensor:
        """The leaky ReLU."""
        return state._replace(node=ops.prelu(state.node, ops.constant(np.full(1, LEAKY_SLOPE, np.float32))))

    def round(self, state: _Tensor, name: str) -> _Tensor:
        """To 8 bits, where what the module makes has a range."""
        if name not in self.ranges:
            return state
        low, high = (ops.constant(np.float32(value)) for value in self.ranges[name])
        return state._replace(node=ops.fake_quantize(state.node, low, high, low, high, LEVELS), rounded=True)

    def weight(self, name: str, shape: Sequence[int], axis: int, *, rounded: bool) -> Any:
        """The weight; rounded, each output channel (along `axis`) has its own step."""
        values = self.take(f"{name}.weight", shape)
        node = ops.constant(values)
        if not rounded:
            return node
        others = tuple(other for other in range(values.ndim) if other != axis)
        largest = np.maximum(np.abs(values).max(axis=others, keepdims=True), np.finfo(np.float32).tiny)
        low, high = ops.constant(-_WEIGHT_RANGE * largest), ops.constant(_WEIGHT_RANGE * largest)
        return ops.fake_quantize(node, low, high, low, high, _WEIGHT_LEVELS)

    def add_bias(self, state: _Tensor, name: str) -> _Tensor:
        """The bias of a module."""
        return state._replace(node=ops.add(state.node, self.per_channel(f"{name}.bias", state.channels)))

    def per_channel(self, name: str, channels: int) -> Any:
        """A constant for each channel of (batch, channel, *patch)."""
        return ops.constant(self.take(name, (channels,)).reshape(1, -1, *self.ones))

    def take(self, name: str, shape: Sequence[int]) -> NDArray[np.float32]:
        """The weights of a name.

        Raises:
            ModelError: there are none, or of another shape.
        """
        self.unused.discard(name)
        return fitting(self.weights, name, shape)

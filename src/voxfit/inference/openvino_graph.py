"""The U-Net as an OpenVINO graph, written node by node from the module, in float32 or with tensors of 8 bits.

Tracing and converting the module takes seconds. Written by hand the graph is there in a tenth of a second, and each
tensor that 8 bits hold has the name of the module that makes it.
Biases in front of an instance norm are left out: the norm subtracts them again.

OpenVINO is optional; only `voxfit.inference.backends` imports this module, when it is wanted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import openvino
import torch
from openvino import opset13 as ops
from torch import nn

from voxfit.core.parallel import available_cores
from voxfit.inference.rounding import LEVELS, Range
from voxfit.networks.unet import LEAKY_SLOPE, ResidualBlock, UNet

_WEIGHT_LEVELS = 255
"""-127 to 127: symmetric about zero."""
_WEIGHT_RANGE = 127 / 63
"""Of the largest weight, which becomes 63: a bit stays free. Processors without VNNI sum two products of 8 bits in 16
bits, and would cut off the sums of full ones; so the integers are the same on every processor."""


class OpenVinoNetwork:
    """A network that OpenVINO runs on the CPU. Not for several threads at once.

    Args:
        network: in evaluation mode, on the CPU.
        patch: size of the tiles, an edge for each spatial axis.
        ranges: of the tensors that 8 bits hold, see `voxfit.inference.rounding`; None: all is float32.
        threads: default: the available cores.
    """

    def __init__(
        self, network: UNet, patch: Sequence[int], ranges: Mapping[str, Range] | None = None, threads: int | None = None
    ) -> None:
        settings = {
            # OpenVINO's own choice would be bfloat16 or float16 where a processor has them.
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads or available_cores(),
        }
        graph = build_graph(network, patch, ranges)
        self._request = openvino.Core().compile_model(graph, "CPU", settings).create_infer_request()

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """(batch, channel, *patch) float32 to (batch, output, *patch) logits; any batch size."""
        result = self._request.infer([batch.contiguous().numpy()], share_inputs=True)[0]
        return torch.from_numpy(result)


def build_graph(network: UNet, patch: Sequence[int], ranges: Mapping[str, Range] | None = None) -> openvino.Model:
    """The graph of a network, for batches of any size.

    Args:
        network: to translate.
        patch: size of the input, an edge for each spatial axis.
        ranges: of the tensors that 8 bits hold; convolutions of these compute with integers.
    """
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Conv3d))
    image = ops.parameter([-1, first.in_channels, *patch], np.float32, name="image")
    logits = _Builder(network, len(patch), ranges or {}).network(image)
    return openvino.Model([logits], [image], "unet")


class _Tensor(NamedTuple):
    """A node's output.

    Attributes:
        node: of the graph.
        rounded: 8 bits hold it.
    """

    node: Any
    rounded: bool = False


class _Builder:
    """Appends nodes for modules.

    Args:
        network: whose modules are translated.
        axes: spatial ones, 2 or 3.
        ranges: by the name of the module that makes the tensor.
    """

    def __init__(self, network: UNet, axes: int, ranges: Mapping[str, Range]) -> None:
        self.unet = network
        self.names = {module: name for name, module in network.named_modules()}
        self.ranges = ranges
        self.ones, self.zeros = [1] * axes, [0] * axes
        self.spatial = ops.constant(np.arange(2, 2 + axes, dtype=np.int64))

    def network(self, image: Any) -> Any:
        """Logits of an image."""
        unet, state = self.unet, _Tensor(image)
        skips: list[_Tensor] = []
        if unet.stem is not None:
            state = self.conv_block(state, unet.stem)
        for pool, blocks in zip(unet.pools, unet.encoder, strict=True):
            state = self.blocks(self.max_pool(state, pool), blocks)
            skips.append(state)
        for level in range(len(unet.ups) - 1, -1, -1):
            wider, skip = self.transposed(state, unet.ups[level]), skips[level]
            joined = ops.concat([wider.node, skip.node], 1)
            state = self.blocks(_Tensor(joined, wider.rounded and skip.rounded), unet.decoder[level])
        return self.convolution(state, unet.head, bias=True).node

    def blocks(self, state: _Tensor, blocks: nn.Module) -> _Tensor:
        """One level."""
        for block in blocks.children():
            residual = isinstance(block, ResidualBlock)
            state = self.residual_block(state, block) if residual else self.conv_block(state, block)
        return state

    def conv_block(self, state: _Tensor, block: Any) -> _Tensor:
        """Convolution, instance norm, and the activation where there is one."""
        convolution, norm, *activation = block
        normed = self.norm(self.convolution(state, convolution), norm)
        return self.round(self.activate(normed) if activation else normed, block)

    def residual_block(self, state: _Tensor, block: Any) -> _Tensor:
        """Two convolutions and the skip connection."""
        changed, skip = self.conv_block(self.conv_block(state, block.first), block.second), state
        if not isinstance(block.pool, nn.Identity):
            size = list(block.pool.kernel_size)
            pooled = ops.avg_pool(skip.node, size, self.zeros, self.zeros, size, exclude_pad=False)
            skip = self.round(_Tensor(pooled), block.pool)
        if not isinstance(block.projection, nn.Identity):
            projection, norm = block.projection
            skip = self.norm(self.convolution(skip, projection), norm)
        return self.round(self.activate(_Tensor(ops.add(changed.node, skip.node))), block)

    def convolution(self, state: _Tensor, module: Any, *, bias: bool = False) -> _Tensor:
        """With a bias only where no norm subtracts it again."""
        weight, padding = self.weight(module, 0, rounded=state.rounded), list(module.padding)
        made = ops.convolution(state.node, weight, list(module.stride), padding, padding, self.ones)
        return self.add_bias(made, module) if bias else _Tensor(made)

    def transposed(self, state: _Tensor, module: Any) -> _Tensor:
        """A transposed convolution, whose output no norm follows."""
        weight = self.weight(module, 1, rounded=state.rounded)
        zeros = self.zeros
        made = ops.convolution_backprop_data(
            state.node, weight, list(module.stride), pads_begin=zeros, pads_end=zeros, dilations=self.ones
        )
        return self.round(self.add_bias(made, module), module)

    def max_pool(self, state: _Tensor, module: Any) -> _Tensor:
        """Integers stay integers."""
        if isinstance(module, nn.Identity):
            return state
        size = list(module.kernel_size)
        return _Tensor(ops.max_pool(state.node, size, self.ones, self.zeros, self.zeros, size).output(0), state.rounded)

    def norm(self, state: _Tensor, module: Any) -> _Tensor:
        """Instance norm with scale and shift."""
        normed = ops.mvn(state.node, self.spatial, True, float(module.eps), "inside_sqrt")
        return _Tensor(ops.add(ops.multiply(normed, self.per_channel(module.weight)), self.per_channel(module.bias)))

    def activate(self, state: _Tensor) -> _Tensor:
        """The leaky ReLU."""
        return _Tensor(ops.prelu(state.node, ops.constant(np.full(1, LEAKY_SLOPE, np.float32))))

    def round(self, state: _Tensor, module: nn.Module) -> _Tensor:
        """To 8 bits, where what the module makes has a range."""
        if self.names[module] not in self.ranges:
            return state
        low, high = (ops.constant(np.float32(value)) for value in self.ranges[self.names[module]])
        return _Tensor(ops.fake_quantize(state.node, low, high, low, high, LEVELS), rounded=True)

    def weight(self, module: Any, axis: int, *, rounded: bool) -> Any:
        """The weight; rounded, each output channel (along `axis`) has its own step."""
        values = module.weight.detach().numpy()
        node = ops.constant(values)
        if not rounded:
            return node
        others = tuple(other for other in range(values.ndim) if other != axis)
        largest = np.maximum(np.abs(values).max(axis=others, keepdims=True), np.finfo(np.float32).tiny)
        low, high = ops.constant(-_WEIGHT_RANGE * largest), ops.constant(_WEIGHT_RANGE * largest)
        return ops.fake_quantize(node, low, high, low, high, _WEIGHT_LEVELS)

    def add_bias(self, node: Any, module: Any) -> _Tensor:
        """The bias of a module, where it has one."""
        return _Tensor(node if module.bias is None else ops.add(node, self.per_channel(module.bias)))

    def per_channel(self, values: torch.Tensor) -> Any:
        """A constant for each channel of (batch, channel, *patch)."""
        return ops.constant(values.detach().numpy().reshape(1, -1, *self.ones))

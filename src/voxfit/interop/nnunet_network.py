"""The networks of nnU-Net v2: their description becomes our levels, their weights become ours.

Source: `PlainConvUNet` and `ResidualEncoderUNet` of dynamic_network_architectures 0.4. Both differ from ours in names
and in the order of the axes only; everything else that their arguments can ask for is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict

from voxfit.networks.unet import UNet
from voxfit.planning.architecture import LEAKY_SLOPE, Stages, Topology

Value = TypeVar("Value", int, float)

_BLOCKS: dict[str, tuple[Literal["plain", "residual"], str]] = {
    "PlainConvUNet": ("plain", "n_conv_per_stage"),
    "ResidualEncoderUNet": ("residual", "n_blocks_per_stage"),
}
"""For each class of nnU-Net, the block of its encoder and the key of their number."""

_LAYERS = {"0": "conv", "1": "norm"}
"""nnU-Net's names of the layers of our `ConvBlock`."""


class Foreign(BaseModel):
    """A JSON object of nnU-Net, as far as it is read."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _Network(Foreign):
    network_class_name: str
    arch_kwargs: dict[str, Any]


class _Layers(Foreign):
    """The arguments of a network's class; one that is not listed here is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_stages: int
    features_per_stage: int | list[int]
    conv_op: str
    kernel_sizes: int | list[int | list[int]]
    strides: int | list[int | list[int]]
    n_conv_per_stage: int | list[int] | None = None
    n_blocks_per_stage: int | list[int] | None = None
    n_conv_per_stage_decoder: int | list[int]
    conv_bias: bool = False
    norm_op: str | None = None
    norm_op_kwargs: dict[str, Any] | None = None
    dropout_op: str | None = None
    dropout_op_kwargs: dict[str, Any] | None = None
    nonlin: str | None = None
    nonlin_kwargs: dict[str, Any] | None = None
    nonlin_first: bool = False
    deep_supervision: bool = False
    block: str | None = None
    bottleneck_channels: int | list[int] | None = None
    stem_channels: int | None = None


class _OlderNetwork(Foreign):
    """How plans described the network before nnU-Net v2.4."""

    UNet_class_name: str
    UNet_base_num_features: int
    unet_max_num_features: int
    n_conv_per_stage_encoder: list[int]
    n_conv_per_stage_decoder: list[int]
    pool_op_kernel_sizes: list[list[int]]
    conv_kernel_sizes: list[list[int]]


def expect(key: str, found: object, *wanted: object) -> None:
    """Stop at a setting that voxfit does not know.

    Raises:
        ValueError: `found` is none of `wanted`.
    """
    if found not in wanted:
        raise ValueError(f"{key} is {found!r}, but only {' or '.join(map(repr, wanted))} can be imported")


def each_axis(key: str, values: Sequence[Value], axes: Sequence[int]) -> tuple[Value, ...]:
    """Numbers of nnU-Net's network axes in (z, y, x) order.

    Args:
        key: what they are, for the error.
        values: one for each of `axes`.
        axes: the one of (z, y, x) behind each axis of nnU-Net's network.
    """
    if len(values) != len(axes):
        raise ValueError(f"{key} is {list(values)}, which are not {len(axes)} numbers")
    return tuple(values[position] for position in axis_order(axes))


def axis_order(axes: Sequence[int]) -> tuple[int, ...]:
    """For each of our spatial axes in turn, its position among nnU-Net's."""
    return tuple(sorted(range(len(axes)), key=axes.__getitem__))


def read_stages(configuration: Mapping[str, Any], axes: Sequence[int]) -> Stages:
    """The levels of a network, kernels and strides in (z, y, x) order.

    Args:
        configuration: an entry of "configurations" in `plans.json`.
        axes: the one of (z, y, x) behind each axis of nnU-Net's network.

    Raises:
        ValueError: our network cannot be this one.
    """
    if "architecture" in configuration:
        network = _Network.model_validate(configuration["architecture"])
    else:
        network = _modern(_OlderNetwork.model_validate(configuration), len(axes))
    module, _, name = network.network_class_name.rpartition(".")
    if name not in _BLOCKS or not module.startswith("dynamic_network_architectures."):
        raise ValueError(f"its network is {network.network_class_name}, but only {' and '.join(_BLOCKS)} are known")
    block, key = _BLOCKS[name]
    layers = _Layers.model_validate(network.arch_kwargs)
    _check_layers(layers, len(axes))
    levels = layers.n_stages
    if levels < 2:
        raise ValueError("n_stages is less than 2")
    features = _each_level("features_per_stage", layers.features_per_stage, levels)
    expect("stem_channels", layers.stem_channels, None, features[0])
    return Stages(
        features=features,
        strides=_each_level_and_axis("strides", layers.strides, levels, axes),
        kernels=_each_level_and_axis("kernel_sizes", layers.kernel_sizes, levels, axes),
        encoder_blocks=_each_level(key, getattr(layers, key), levels),
        # nnU-Net counts the way up from the deepest level.
        decoder_blocks=_each_level("n_conv_per_stage_decoder", layers.n_conv_per_stage_decoder, levels - 1)[::-1],
        block=block,
        downsampling="strided",
        bias=layers.conv_bias,
    )


def translate_weights(
    weights: Mapping[str, torch.Tensor], topology: Topology, axes: Sequence[int]
) -> dict[str, torch.Tensor]:
    """The weights of one of nnU-Net's networks, for ours.

    Each of ours is filled from one of theirs. Of theirs, only the outputs of lower resolutions (deep supervision), and
    second copies of the same weight, are left out.

    Args:
        weights: by nnU-Net's names; spatial axes in nnU-Net's order.
        topology: of our network.
        axes: the one of (z, y, x) behind each axis of nnU-Net's network.

    Returns:
        `UNet.state_dict()`: float32, spatial axes in (z, y, x) order.

    Raises:
        ValueError: they are of another network.
    """
    found = _unique(weights)
    with torch.device("meta"):
        wanted = UNet(topology).state_dict()
    names = {ours: _their_name(ours, topology) for ours in wanted}
    last = len(topology.features) - 2
    coarse = tuple(f"decoder.seg_layers.{number}." for number in range(last))
    unknown = [name for name in found if name not in names.values() and not name.startswith(coarse)]
    missing = [name for name in names.values() if name not in found]
    if unknown or missing:
        parts = [f"it has {', '.join(unknown[:3])}"] if unknown else []
        parts += [f"it lacks {', '.join(missing[:3])}"] if missing else []
        raise ValueError("; ".join(parts))
    turned = {ours: _turned(found[theirs], axes) for ours, theirs in names.items()}
    for ours, weight in turned.items():
        if weight.shape != wanted[ours].shape:
            raise ValueError(
                f"{names[ours]} has the shape {tuple(found[names[ours]].shape)}, where {tuple(wanted[ours].shape)} "
                "(with axes turned back) is needed"
            )
    return turned


def _unique(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Each weight under one name: nnU-Net's modules hold the encoder, and each layer, in two places."""
    found: dict[str, torch.Tensor] = {}
    for name, weight in weights.items():
        # Left by distributed training and torch.compile.
        plain = name.removeprefix("module.").removeprefix("_orig_mod.")
        if plain.startswith("decoder.encoder."):
            plain = plain.removeprefix("decoder.")
        plain = plain.replace(".all_modules.0.", ".conv.").replace(".all_modules.1.", ".norm.")
        if plain in found and not torch.equal(found[plain], weight):
            raise ValueError(f"{name} is not the same as {plain}")
        found[plain] = weight
    return found


def _their_name(ours: str, topology: Topology) -> str:
    """nnU-Net's name of one of our weights."""
    *place, layer, kind = ours.split(".")
    last = len(topology.features) - 2  # the way up is counted from the deepest level
    match place:
        case []:  # "head.weight": there is no number
            return f"decoder.seg_layers.{last}.{kind}"
        case ["ups"]:
            return f"decoder.transpconvs.{last - int(layer)}.{kind}"
        case ["stem"]:
            prefix = "encoder.stem.convs.0"
        case ["encoder", level, block]:
            prefix = f"encoder.stages.{level}.0.convs.{block}"
        case ["encoder", level, block, "projection"]:
            # Behind the pooling, where there is one.
            pooled = block == "0" and any(stride > 1 for stride in topology.strides[int(level)])
            prefix = f"encoder.stages.{level}.blocks.{block}.skip.{int(pooled)}"
        case ["encoder", level, block, half]:
            prefix = f"encoder.stages.{level}.blocks.{block}.{'conv1' if half == 'first' else 'conv2'}"
        case [_, level, block]:  # of the decoder
            prefix = f"decoder.stages.{last - int(level)}.convs.{block}"
        case _:
            raise AssertionError(f"{ours}: a weight of our network that nnU-Net's name is not known of")
    return f"{prefix}.{_LAYERS[layer]}.{kind}"


def _turned(weight: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
    """A convolution's (output, input, *spatial) kernel in our order of axes; biases and norms have no such axes."""
    if weight.ndim == len(axes) + 2:
        weight = weight.permute(0, 1, *(2 + position for position in axis_order(axes)))
    return weight.to(torch.float32, memory_format=torch.contiguous_format, copy=True)


def _modern(older: _OlderNetwork, dimension: int) -> _Network:
    """The same network as plans describe it since."""
    levels = len(older.n_conv_per_stage_encoder)
    features = [min(older.UNet_base_num_features << level, older.unet_max_num_features) for level in range(levels)]
    _, key = _BLOCKS.get(older.UNet_class_name, ("", "n_conv_per_stage"))
    return _Network(
        network_class_name=f"dynamic_network_architectures.architectures.unet.{older.UNet_class_name}",
        arch_kwargs={
            "n_stages": levels,
            "features_per_stage": features,
            "conv_op": f"torch.nn.Conv{dimension}d",
            "kernel_sizes": older.conv_kernel_sizes,
            "strides": older.pool_op_kernel_sizes,
            key: older.n_conv_per_stage_encoder,
            "n_conv_per_stage_decoder": older.n_conv_per_stage_decoder,
            "conv_bias": True,
            "norm_op": f"torch.nn.InstanceNorm{dimension}d",
            "norm_op_kwargs": {"affine": True},
            "nonlin": "torch.nn.LeakyReLU",
        },
    )


def _check_layers(layers: _Layers, dimension: int) -> None:
    """Everything that is the same in each network of ours."""
    for key, kind in (
        ("conv_op", f"Conv{dimension}d"),
        ("norm_op", f"InstanceNorm{dimension}d"),
        ("nonlin", "LeakyReLU"),
    ):
        module, _, name = (getattr(layers, key) or "").rpartition(".")
        if name != kind or module.split(".")[:2] != ["torch", "nn"]:
            raise ValueError(f"{key} is {getattr(layers, key)!r}, but only torch.nn.{kind} can be imported")
    # What PyTorch takes where plans say nothing; momentum has no meaning without running statistics.
    norm = {"eps": 1e-5, "affine": False, "track_running_stats": False} | (layers.norm_op_kwargs or {})
    norm.pop("momentum", None)
    expect("norm_op_kwargs", norm, {"eps": 1e-5, "affine": True, "track_running_stats": False})
    activation = {"negative_slope": LEAKY_SLOPE} | (layers.nonlin_kwargs or {})
    activation.pop("inplace", None)
    expect("nonlin_kwargs", activation, {"negative_slope": LEAKY_SLOPE})
    expect("nonlin_first", layers.nonlin_first, False)
    expect("dropout_op", layers.dropout_op, None)
    expect("block", (layers.block or "BasicBlockD").rpartition(".")[2], "BasicBlockD")
    expect("bottleneck_channels", layers.bottleneck_channels, None)


def _each_level(key: str, found: int | list[int] | None, levels: int) -> tuple[int, ...]:
    """A number for each level; nnU-Net writes one number for all."""
    if isinstance(found, int):
        return (found,) * levels
    if found is None or len(found) != levels:
        raise ValueError(f"{key} is {found}, which are not {levels} numbers")
    return tuple(found)


def _each_level_and_axis(
    key: str, found: int | list[int | list[int]], levels: int, axes: Sequence[int]
) -> tuple[tuple[int, ...], ...]:
    """Numbers of each level and axis; nnU-Net writes one number for all."""
    each = [found] * levels if isinstance(found, int) else found
    if len(each) != levels:
        raise ValueError(f"{key} is {found}, which are not {levels} entries")
    return tuple(each_axis(key, [item] * len(axes) if isinstance(item, int) else item, axes) for item in each)

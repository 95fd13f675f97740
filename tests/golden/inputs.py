"""What both sides are given, made from seeds: nnU-Net when the golden files are written, voxfit in every test run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from golden.files import noise, whole_numbers
from voxfit.planning.grid import ClipAndScale, Divide, Normalization, UnitRange, ZScore

CT = ClipAndScale(lower=-100.0, upper=220.0, mean=60.0, standard_deviation=50.0)
Scheme = tuple[Normalization, str, bool]
SCHEMES: list[Scheme] = [
    (ZScore(), "ZScoreNormalization", False),
    (ZScore(inside_mask=True), "ZScoreNormalization", True),
    (CT, "CTNormalization", False),
    (Divide(by=1.0), "NoNormalization", False),
    (UnitRange(), "RescaleTo01Normalization", False),
]
"""Ours, nnU-Net's name, and whether it normalises inside of the nonzero mask only."""


@dataclass(frozen=True)
class Case:
    """An image to prepare.

    Attributes:
        shape, spacing_mm: of the image, (z, y, x).
        new_mm: of the grid; two numbers for slices.
        schemes: one for each channel.
        axes: nnU-Net's `transpose_forward`.
        tunnel: an axis along which a tunnel of zeros opens at the far side of the image; None for noise with holes.
        outside: labels also where the image is zero.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    new_mm: tuple[float, ...]
    schemes: list[Scheme] = field(default_factory=lambda: SCHEMES[1:2])
    axes: tuple[int, ...] = (0, 1, 2)
    tunnel: int | None = None
    outside: bool = True

    def made(self) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
        """Image (channel, z, y, x) and label (z, y, x); a border of zeros, which is cropped."""
        image = 300 + 50 * noise((len(self.schemes), *self.shape), 1)
        empty = whole_numbers(self.shape, 2, 0, 10) < 4
        if self.tunnel is not None:
            empty[:] = False
            middle = [slice(size // 2, size // 2 + 2) for size in self.shape]
            middle[self.tunnel] = slice(3, None)
            empty[tuple(middle)] = True
            empty[2, 2, 2] = True  # a hole that is closed
        image[:, empty] = 0
        image[:, :, 0] = 0
        label = whole_numbers(self.shape, 3, 0, 4).astype(np.int16)
        return image, label if self.outside else np.where(empty, 0, label).astype(np.int16)


PREPARED = {
    "every scheme": Case((9, 8, 10), (1.0, 1.25, 1.5), (1.5, 1.0, 1.0), SCHEMES),
    "thick slices": Case((6, 10, 11), (5.0, 1.0, 1.0), (3.3, 1.25, 0.7)),
    "from thick to cubes": Case((5, 9, 8), (5.0, 1.0, 1.0), (1.5, 1.5, 1.5)),
    "turned": Case((9, 8, 7), (0.7, 3.3, 1.0), (1.0, 3.0, 1.5), axes=(1, 2, 0)),
    "slices": Case((6, 9, 10), (3.0, 1.0, 1.25), (1.5, 1.0), SCHEMES[:1]),
    "sagittal slices": Case((9, 10, 6), (1.0, 1.25, 3.0), (1.5, 1.0), axes=(2, 0, 1)),
    "labelled outside": Case((8, 9, 8), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    "not labelled outside": Case((8, 9, 8), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), outside=False),
} | {
    f"open along {'zyx'[axis]}": Case((8, 9, 8), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), tunnel=axis, outside=False)
    for axis in range(3)
}

RESAMPLED: dict[str, tuple[tuple[int, ...], tuple[int, ...], int | None]] = {
    "larger": ((5, 6, 7), (8, 9, 7), None),
    "smaller": ((9, 8, 7), (4, 5, 3), None),
    "apart": ((4, 6, 7), (7, 9, 5), 0),
    "apart along x": ((6, 5, 4), (5, 7, 9), 2),
    "a single voxel": ((1, 5, 6), (3, 4, 8), None),
}
"""Old shape, new shape, the axis that is resampled apart."""


def resampled(name: str) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Image of two channels and label, with -1 for what is outside."""
    old, _, _ = RESAMPLED[name]
    return noise((2, *old), 4), whole_numbers(old, 5, -1, 4).astype(np.int16)


def architecture(kind: str, dimension: int, **changes: Any) -> dict[str, Any]:
    """A small network as nnU-Net's plans describe it."""
    blocks = "n_conv_per_stage" if kind == "PlainConvUNet" else "n_blocks_per_stage"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{kind}",
        "arch_kwargs": {
            "n_stages": 4,
            "features_per_stage": [4, 8, 8, 12],
            "conv_op": f"torch.nn.modules.conv.Conv{dimension}d",
            blocks: [2, 1, 3, 2],
            "n_conv_per_stage_decoder": [1, 2, 3],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimension}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        }
        | changes,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


ISOTROPIC = {"kernel_sizes": 3, "strides": [1, 2, 2, 2]}
FLAT = {"kernel_sizes": [[3, 1], [3, 3], [5, 3], [3, 3]], "strides": [[1, 1], [2, 1], [2, 2], [1, 2]]}
COARSE = {
    "kernel_sizes": [[1, 3, 3], [1, 3, 3], [3, 3, 5], [3, 3, 3]],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 1], [2, 1, 1]],
}
UNPOOLED = {"kernel_sizes": [3, 3, [1, 1, 3], 3], "strides": [1, [1, 1, 1], [1, 2, 2], [4, 1, 3]]}
NETWORKS: dict[str, tuple[str, tuple[int, ...], dict[str, Any], tuple[int, ...]]] = {
    "plain, 2D": ("PlainConvUNet", (1, 2), ISOTROPIC, (16, 24)),
    "plain, 2D, turned": ("PlainConvUNet", (2, 1), FLAT, (16, 16)),
    "plain, 3D": ("PlainConvUNet", (0, 1, 2), ISOTROPIC, (8, 16, 8)),
    "plain, 3D, turned": ("PlainConvUNet", (2, 0, 1), COARSE | {"conv_bias": False}, (8, 8, 8)),
    "residual, 2D": ("ResidualEncoderUNet", (0, 2), FLAT, (16, 16)),
    "residual, 3D": ("ResidualEncoderUNet", (1, 0, 2), COARSE, (8, 8, 8)),
    "residual, 3D, unpooled": ("ResidualEncoderUNet", (2, 1, 0), UNPOOLED, (12, 8, 8)),
}
"""Kind, `transpose_forward`, levels, and the shape of an image in (z, y, x) order."""


def weight_like(shape: tuple[int, ...], name: str) -> NDArray[np.float32]:
    """Weights by their names: kernels so that numbers neither grow nor vanish, norms and biases about 0.5."""
    drawn = noise(shape, int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little"))
    if len(shape) == 1:
        return drawn / 4 + np.float32(0.5)
    return drawn / np.float32(2.0 * np.sqrt(np.prod(shape[1:])))


PATCH = (6, 8, 8)
"""Of the sliding window."""
WINDOWS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "smaller, odd": ((5, 7, 3), ()),
    "smaller along two": ((11, 5, 7), ()),
    "larger": ((7, 13, 8), ()),
    "larger, mirrored": ((7, 9, 10), (0, 2)),
    "smaller, mirrored": ((5, 11, 7), (0, 1, 2)),
}
"""Shape of the image, and the axes that are mirrored."""

TILED = [
    (size, edge)
    for edge in (2, 5, 8, 13, 40, 128)
    for size in (edge, edge + 1, edge + edge // 2, 2 * edge + 3, 301)
    if size >= edge
]
GAUSSIANS = [(7, 9, 8), (5, 1, 12), (56, 40), (3, 2, 2)]

LABELLED: dict[str, tuple[dict[str, Any], list[int] | None]] = {
    "classes": ({"background": 0, "a": 1, "b": 2, "c": 3}, None),
    "regions": ({"background": 0, "all": [1, 2, 3], "some": [2, 3], "one": 3}, [1, 2, 3]),
    "other order": ({"background": 0, "one": 3, "all": [1, 2], "some": [2, 3]}, [3, 1, 2]),
}
"""Labels of `dataset.json`, and `regions_class_order`."""
EXPORTED = Case((7, 9, 8), (2.0, 1.0, 1.25), (1.5, 1.5, 1.0))
"""Its image decides the crop, the grid and the way back of logits."""


def logits_of(outputs: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """On the prepared grid of `EXPORTED`, about zero."""
    return noise((outputs, *shape), 8)


CHANGED = [
    (change, shape)
    for change in ("noise", "blur", "brightness", "contrast", "low resolution", "gamma", "inverted gamma")
    for shape in ((9, 11), (6, 7, 8))
] + [("low resolution of slices", (6, 7, 8))]
"""Changes of intensity, and the shapes that they are tried on; two channels each."""
SIGMAS = (0.55, 0.7, 0.95)
FLIPS = (True, False, True)


def sample(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Two channels, brighter than zero on average."""
    return noise((2, *shape), 9) / 2 + 1


def mask_of(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Labels, -1 outside; (1, z, y, x)."""
    return whole_numbers((1, *shape), 10, -1, 3)


class Ramp(torch.nn.Module):
    """Says where in its tile a voxel lies: what is padded, and where, shows."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Two outputs."""
        places = [torch.arange(1, edge + 1, dtype=image.dtype) for edge in image.shape[2:]]
        ramp = places[0][:, None, None] + 10 * places[1][:, None] + 100 * places[2]
        return torch.cat([image * ramp, image + ramp], dim=1)

"""Rows: an image and its label map on another grid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.outputs import array, within
from benchmarks.row import Kernel, Row, Setting, Target

TOLERANCE = 1e-5
"""Of the range. Ours is in single precision, whose step is 1e-7 of it, and adds up to 256 products an axis."""


def shapes(setting: Setting) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Before and after."""
    return ((32, 64, 64), (40, 80, 80)) if setting.quick else ((128, 256, 256), (160, 320, 320))


def image(setting: Setting) -> Any:
    """Smooth structures and noise, (1, z, y, x) float32."""
    import numpy as np
    import scipy.ndimage

    old, rng = shapes(setting)[0], np.random.default_rng(0)
    coarse = scipy.ndimage.zoom(rng.normal(size=[size // 8 for size in old]), 8, order=1)
    return (coarse + rng.normal(0, 0.1, old)).astype(np.float32)[None]


def label(setting: Setting) -> Any:
    """Four classes in connected pieces, (z, y, x) int16."""
    import numpy as np

    return np.digitize(image(setting)[0], [-0.5, 0.0, 0.5]).astype(np.int16)


def our_image(setting: Setting) -> Callable[[], Any]:
    """Cut at the range of the image, as nnU-Net does."""
    from voxfit.preprocessing.resampling import resample

    source, new = image(setting), shapes(setting)[1]
    return lambda: resample(source, new, order=3, clip=True)


def peer_image(setting: Setting) -> Callable[[], Any]:
    """What nnU-Net's preprocessor calls."""
    return _peer(image(setting), shapes(setting)[1], is_seg=False, order=3)


def scipy_image(setting: Setting) -> Callable[[], Any]:
    """The same grid and edges."""
    import scipy.ndimage

    source, (old, new) = image(setting)[0], shapes(setting)
    factors = [after / before for before, after in zip(old, new, strict=True)]
    return lambda: scipy.ndimage.zoom(source, factors, order=3, mode="nearest", grid_mode=True)[None]


def check_images(setting: Setting, folder: Path) -> str:
    """Of both peers; what SciPy's spline adds beyond the range is cut for this."""
    source, ours = image(setting), array(folder, "voxfit")
    theirs = array(folder, "SciPy zoom").clip(source.min(), source.max())
    said = [within(ours, array(folder, "nnU-Net v2"), TOLERANCE, "nnU-Net"), within(ours, theirs, TOLERANCE, "SciPy")]
    return "; ".join(said)


def our_label(setting: Setting) -> Callable[[], Any]:
    """By the nearest voxel."""
    from voxfit.preprocessing.resampling import resample_nearest

    source, new = label(setting), shapes(setting)[1]
    return lambda: resample_nearest(source, new)


def peer_nearest_label(setting: Setting) -> Callable[[], Any]:
    """The same rule."""
    return _peer(label(setting)[None], shapes(setting)[1], is_seg=True, order=0)


def peer_linear_label(setting: Setting) -> Callable[[], Any]:
    """Its default: each label's mask linearly."""
    return _peer(label(setting)[None], shapes(setting)[1], is_seg=True, order=1)


def our_linear_label(setting: Setting) -> Callable[[], Any]:
    """Its default rule, by ours."""
    from voxfit.preprocessing.resampling import resample_linear

    source, new = label(setting), shapes(setting)[1]
    return lambda: resample_linear(source, new)


def check_nearest(setting: Setting, folder: Path) -> str:
    """Voxel by voxel."""
    return _equal(folder, "voxfit", "nnU-Net v2, order 0")


def check_linear(setting: Setting, folder: Path) -> str:
    """Voxel by voxel."""
    return _equal(folder, "voxfit", "nnU-Net v2")


def _equal(folder: Path, ours: str, theirs: str) -> str:
    different = int((array(folder, ours) != array(folder, theirs)[0]).sum())
    assert not different, f"{different} voxels differ"
    return "every voxel equal"


def _peer(source: Any, new: tuple[int, ...], *, is_seg: bool, order: int) -> Callable[[], Any]:
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    spacing = [1.0, 1.0, 1.0]  # shapes decide; this says only that no axis is resampled apart
    return lambda: resample_data_or_seg_to_shape(
        source, new, spacing, spacing, is_seg=is_seg, order=order, order_z=0, force_separate_z=False
    )


def whole(device: str) -> str:
    """Of labels."""
    return "whole numbers"


def double(device: str) -> str:
    """Of the peers, whatever they are given."""
    return "float64"


ROWS = (
    Row(
        name="resample",
        title="an image 1x128x256x256 to 160x320x320, order 3, 2 threads",
        ours=(Kernel("voxfit", our_image, Target(speed=30)),),
        theirs=(
            Kernel("nnU-Net v2", peer_image, precision=double),
            Kernel("SciPy zoom", scipy_image, precision=double),
        ),
        check=check_images,
    ),
    Row(
        name="resample_label",
        title="its label map of 4 classes, by the nearest voxel",
        ours=(Kernel("voxfit", our_label, precision=whole),),
        theirs=(Kernel("nnU-Net v2, order 0", peer_nearest_label, precision=double),),
        check=check_nearest,
    ),
    Row(
        name="resample_label_linear",
        title="the same by nnU-Net's default rule, each mask linearly",
        ours=(Kernel("voxfit", our_linear_label),),
        theirs=(Kernel("nnU-Net v2", peer_linear_label, precision=double),),
        check=check_linear,
    ),
)

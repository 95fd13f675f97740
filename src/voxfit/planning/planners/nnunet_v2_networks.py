"""The networks that nnU-Net v2 plans: by its default planner, and by those of the residual encoder networks.

The numbers, and the order in which they are rounded, are those of nnU-Net v2.8 (`ExperimentPlanner`, the M, L and XL
presets of `ResEncUNetPlanner`, `network_topology`); memory is measured as dynamic_network_architectures 0.4 does.
Where nnU-Net stops with an error (an edge of 0 voxels, more levels than its tables have), the rules go on: an edge is
at least 1 voxel long, and deeper levels have the blocks of the last level in the table. Like nnU-Net they work on
turned axes, that of largest spacing first; `plan_networks` turns its results back to (z, y, x).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np

from voxfit.planning.fingerprint import Fingerprint

Value = TypeVar("Value", int, float)
Sizes = Sequence[float]
Axes = tuple[int, ...]
Levels = tuple[Axes, ...]

REFERENCE_BATCH = {2: 12, 3: 2}  # by the network's dimension, as the next two
MAX_FEATURES = {2: 512, 3: 320}
FIRST_VOXELS = {2: 2048**2, 3: 256**3}  # of the patch that is shrunk until it fits
BASE_FEATURES = 32  # at full resolution, doubled at every level
MIN_EDGE = 4  # no axis is halved to fewer voxels
ANISOTROPY = 3  # a coarse axis has more than this many times the spacing of the others, a short one fewer voxels
LOW_SHARE = 0.25  # low resolution is for patches with a smaller share of the median case
LOW_STEP = 1.03  # by which its spacing grows until the share is reached
LOW_GAIN = 2  # it is dropped where its median case has not this many times fewer voxels


@dataclass(frozen=True)
class Preset:
    """One planner of nnU-Net v2.

    Attributes:
        name, residual: as in `PRESETS`; residual blocks in the encoder, or plain convolutions.
        vram_gb, reference_vram_gb: memory to plan for, and that which the next two numbers were found for.
        elements_2d, elements_3d: values in the feature maps of one sample, of which `REFERENCE_BATCH` fill the memory.
        fitted_batch_2d: slices are shrunk until this many fit; for volumes it is the reference batch.
        encoder_blocks, decoder_blocks: of each level, deeper ones like the last; convolutions of all on the way up.
        dataset_share: most of the dataset's voxels that a batch may hold, down to `min_batch_size`.
    """

    name: str
    residual: bool
    vram_gb: float
    reference_vram_gb: float
    elements_2d: int
    elements_3d: int
    fitted_batch_2d: int
    encoder_blocks: tuple[int, ...]
    decoder_blocks: int
    dataset_share: float
    min_batch_size: int = 2

    def features(self, dimension: int, levels: int) -> tuple[int, ...]:
        """Feature maps of each level."""
        return tuple(min(BASE_FEATURES << level, MAX_FEATURES[dimension]) for level in range(levels))

    def blocks(self, levels: int) -> tuple[int, ...]:
        """Encoder blocks of each level."""
        return tuple(self.encoder_blocks[min(level, len(self.encoder_blocks) - 1)] for level in range(levels))


def _residual(size: str, vram_gb: int, elements_2d: int, elements_3d: int) -> Preset:
    # Here nnU-Net shrinks slices until all 12 of the reference fit, and a batch may hold the whole dataset.
    return Preset(
        f"nnunet-v2-resenc-{size}", True, vram_gb, vram_gb, elements_2d, elements_3d, 12, (1, 3, 4, 6), 1, 1.0
    )


# By name: the default planner, and those of the residual encoder networks.
PRESETS: dict[str, Preset] = {
    "nnunet-v2": Preset("nnunet-v2", False, 8, 8, 85_000_000, 560_000_000, 2, (2,), 2, 0.05),
    "nnunet-v2-resenc-m": _residual("m", 8, 135_000_000, 680_000_000),
    "nnunet-v2-resenc-l": _residual("l", 24, 380_000_000, 2_100_000_000),
    "nnunet-v2-resenc-xl": _residual("xl", 40, 560_000_000, 3_600_000_000),
}


@dataclass(frozen=True)
class NetworkRule:
    """What nnU-Net v2 decides for one configuration; axes are (z, y, x), those of a 2D patch without `slice_axis`.

    Attributes:
        spacing_mm: (z, y, x) of the resampled cases, 2D too. There the entry of `slice_axis` is that of full
            resolution, which the size of the dataset is taken from; nnU-Net leaves this axis of a case as it is.
        median_shape: of the resampled cases, along the patch's axes.
        patch_size, batch_size: what one training step sees; a patch has 3 edges, 2 for 2D.
        features, kernels: feature maps of each level and size of its convolutions, full resolution first.
        strides: division of the axes on entering each level; ones for the first.
        encoder_blocks: convolutions of each level, or residual blocks (after one convolution at full resolution).
        decoder_blocks: convolutions of each level but the deepest.
        residual: which of the two the encoder has.
        slice_axis, previous: 2D: the axis that slices are stacked along; the cascade: whose segmentation it refines.
        batch_dice: Dice over the batch as one volume, or over each sample.
    """

    spacing_mm: tuple[float, ...]
    median_shape: Axes
    patch_size: Axes
    batch_size: int
    features: tuple[int, ...]
    strides: Levels
    kernels: Levels
    encoder_blocks: tuple[int, ...]
    decoder_blocks: tuple[int, ...]
    residual: bool
    slice_axis: int | None = None
    batch_dice: bool = False
    previous: str | None = None


def plan_networks(fingerprint: Fingerprint, preset: Preset) -> dict[str, NetworkRule]:
    """Every configuration that a planner of nnU-Net v2 offers (nnU-Net v2.8, `ExperimentPlanner`).

    Args:
        fingerprint: the measured facts.
        preset: the planner, one of `PRESETS` or a changed copy.

    Returns:
        "2d"; "3d" (nnU-Net's 3d_fullres) where the median case is thicker than one voxel along the axis of largest
        spacing; "3d_lowres" and "3d_cascade" where a patch is small against the median case.
    """
    target = target_spacing(fingerprint)
    order, spacing, median = _turned(fingerprint, target)
    labels = fingerprint.labels
    # What dataset.json lists: background, classes or regions, and what is ignored though it is no output.
    fit = partial(_fit, preset, 1 + len(labels.names) + (labels.ignore is not None))
    voxels = math.prod(median) * len(fingerprint.cases)
    plane = _turned_back(fit(spacing[1:], median[1:], voxels), order)
    rules = {"2d": replace(plane, spacing_mm=target, slice_axis=order[0], batch_dice=True)}
    if fingerprint.dimension == 2 or median[0] == 1:
        return rules
    full = fit(spacing, median, voxels)
    low = _low_resolution(fit, full, median, len(fingerprint.cases))
    rules["3d"] = replace(_turned_back(full, order), batch_dice=low is not None)
    if low is not None:
        rules["3d_lowres"] = _turned_back(low, order)
        rules["3d_cascade"] = replace(rules["3d"], previous="3d_lowres")
    return rules


def target_spacing(fingerprint: Fingerprint) -> tuple[float, ...]:
    """Spacing of full resolution, (z, y, x) in mm (nnU-Net v2.8, `ExperimentPlanner`).

    It is the median, but the 10th percentile along an axis that is coarse and short: there the median would
    interpolate many slices away.
    """
    spacings = np.array([case.spacing_mm for case in fingerprint.cases])
    target = np.percentile(spacings, 50, axis=0)
    size = np.percentile([case.shape for case in fingerprint.cases], 50, axis=0)
    axis = int(np.argmax(target))
    finer = max(np.delete(target, axis))
    if target[axis] > ANISOTROPY * finer and size[axis] * ANISOTROPY < min(np.delete(size, axis)):
        percentile = np.percentile(spacings[:, axis], 10)
        # It stays the coarsest axis, if by a hair.
        target[axis] = percentile if percentile >= finer else finer + 1e-5
    return tuple(float(value) for value in target)


def divide(spacing_mm: Sizes, size: Sizes) -> tuple[Levels, Levels]:
    """Strides and kernels of each level, full resolution first (nnU-Net v2.8, `network_topology`).

    An axis is halved while it is long enough. Coarse axes wait: one of at least twice the finest spacing is not
    halved, and until it first comes nearer its kernels have length 1. The deepest level has full kernels.
    """
    spacing, edges = list(spacing_mm), list(size)
    axes = range(len(edges))
    strides, kernels = [(1,) * len(edges)], [(1,) * len(edges)]
    while halved := _halved_axes(spacing, edges):
        kernels.append(tuple(3 if kernels[-1][axis] == 3 or spacing[axis] / min(spacing) < 2 else 1 for axis in axes))
        strides.append(tuple(2 if axis in halved else 1 for axis in axes))
        for axis in halved:
            spacing[axis] *= 2
            edges[axis] = math.ceil(edges[axis] / 2)
    return tuple(strides), (*kernels[1:], (3,) * len(edges))


def _halved_axes(spacing: Sizes, edges: Sizes) -> list[int]:
    long = [axis for axis, edge in enumerate(edges) if edge >= 2 * MIN_EDGE]
    finest = min((spacing[axis] for axis in long), default=0.0)
    axes = [axis for axis in long if spacing[axis] / finest < 2]
    # An axis alone is not worth a level unless it is longer.
    return [] if len(axes) == 1 and edges[axes[0]] < 3 * MIN_EDGE else axes


def divisor(strides: Levels) -> Axes:
    """What the patch's edges must be multiples of."""
    return tuple(math.prod(axis) for axis in zip(*strides, strict=True))


def count_elements(patch_size: Axes, strides: Levels, preset: Preset, classes: int) -> int:
    """Values in the feature maps of one patch, the measure of memory (dynamic_network_architectures 0.4).

    These are the outputs of all convolutions, without deep supervision. A level of a residual encoder has one more
    than two for each block: for the network's first convolution, or where resolution changes for the skip connection.
    """
    levels, voxels = len(strides), math.prod(patch_size)
    total = classes * voxels if levels > 1 else 0
    features, blocks = preset.features(len(patch_size), levels), preset.blocks(levels)
    for level, stride in enumerate(strides):
        voxels //= math.prod(stride)
        down = 2 * blocks[level] + 1 if preset.residual else blocks[level]
        # On the way up there is the transposed convolution too.
        up = preset.decoder_blocks + 1 if level < levels - 1 else 0
        total += (down + up) * features[level] * voxels
    return total


def _turned(fingerprint: Fingerprint, spacing_mm: Sizes) -> tuple[Axes, tuple[float, ...], tuple[float, ...]]:
    """Order of the axes, then in this order the spacing and the median shape at it."""
    # nnU-Net reads 2D images with a spacing across that makes this axis the first.
    first = 0 if fingerprint.dimension == 2 else int(np.argmax(spacing_mm))
    order = (first, *(axis for axis in range(3) if axis != first))
    shapes = [np.rint(np.divide(case.spacing_mm, spacing_mm) * case.shape) for case in fingerprint.cases]
    median = np.maximum(np.median(shapes, axis=0), 1)
    return order, tuple(spacing_mm[axis] for axis in order), tuple(float(median[axis]) for axis in order)


def _turned_back(rule: NetworkRule, order: Axes) -> NetworkRule:
    def back(values: Sequence[Value]) -> tuple[Value, ...]:
        return tuple(value for _, value in sorted(zip(order[-len(values) :], values, strict=True)))

    return replace(
        rule,
        spacing_mm=back(rule.spacing_mm),
        median_shape=back(rule.median_shape),
        patch_size=back(rule.patch_size),
        strides=tuple(back(stride) for stride in rule.strides),
        kernels=tuple(back(kernel) for kernel in rule.kernels),
    )


def _fit(preset: Preset, classes: int, spacing: Sizes, median: Sizes, voxels: float) -> NetworkRule:
    """Patch, batch and levels for a grid on which the dataset has so many voxels; axes as they are given."""
    dimension, reference = len(spacing), REFERENCE_BATCH[len(spacing)]
    flat = dimension == 2
    elements, fitted = (preset.elements_2d, preset.fitted_batch_2d) if flat else (preset.elements_3d, reference)
    memory = elements * (preset.vram_gb / preset.reference_vram_gb)
    density = [1 / value for value in spacing]
    scale = (FIRST_VOXELS[dimension] / math.prod(density)) ** (1 / dimension)
    first = [max(min(round(value * scale), size), 1) for value, size in zip(density, median, strict=True)]
    patch, strides, kernels = _padded(spacing, first)
    while max(patch) > 1 and count_elements(patch, strides, preset, classes) / reference * fitted > memory:
        patch, strides, kernels = _padded(spacing, _shortened(spacing, median, patch, strides))
    fits = round(memory / count_elements(patch, strides, preset, classes) * reference)
    share = round(voxels * preset.dataset_share / math.prod(patch))
    return NetworkRule(
        spacing_mm=tuple(spacing),
        median_shape=tuple(round(size) for size in median),
        patch_size=patch,
        batch_size=max(min(fits, share), preset.min_batch_size),
        features=preset.features(dimension, len(strides)),
        strides=strides,
        kernels=kernels,
        encoder_blocks=preset.blocks(len(strides)),
        decoder_blocks=(preset.decoder_blocks,) * (len(strides) - 1),
        residual=preset.residual,
    )


def _padded(spacing: Sizes, size: Sizes) -> tuple[Axes, Levels, Levels]:
    strides, kernels = divide(spacing, size)
    patch = tuple(math.ceil(edge / step) * step for edge, step in zip(size, divisor(strides), strict=True))
    return patch, strides, kernels


def _shortened(spacing: Sizes, median: Sizes, patch: Axes, strides: Levels) -> list[int]:
    """One step down along the axis that covers most of the median case, the last on ties."""
    long = [axis for axis, edge in enumerate(patch) if edge > 1]
    axis = max(long, key=lambda axis: (patch[axis] / median[axis], axis))
    # A whole step could skip an edge that is allowed: 256 has a step of 64, but 224, one level less, has one of 32.
    shorter = list(patch)
    shorter[axis] -= divisor(strides)[axis]
    shorter[axis] = patch[axis] - divisor(divide(spacing, shorter)[0])[axis]
    return shorter


def _low_resolution(
    fit: Callable[[Sizes, Sizes, float], NetworkRule], full: NetworkRule, median: Sizes, cases: int
) -> NetworkRule | None:
    """The grid that is coarsened until a patch is a quarter of a median case; None where it is hardly coarser."""
    spacing, low, voxels = np.array(full.spacing_mm), full, math.prod(median)
    while math.prod(low.patch_size) / voxels < LOW_SHARE:
        behind = max(spacing) / spacing > 2
        # Fine axes catch up first; then all grow.
        spacing = np.where(behind | ~behind.any(), spacing * LOW_STEP, spacing)
        exact = full.spacing_mm / spacing * median
        voxels = math.prod(exact.tolist())
        low = fit(spacing.tolist(), np.maximum(np.rint(exact), 1).tolist(), voxels * cases)
    return low if math.prod(median) / voxels >= LOW_GAIN else None

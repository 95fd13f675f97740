"""The planner of the 2018 paper: from a fingerprint to a plan, with the reason for each number."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from voxfit.core.formatting import format_sizes
from voxfit.planning.fingerprint import Fingerprint, is_ct
from voxfit.planning.grid import ClipAndScale, MissingCTStatistics, Normalization, ZScore
from voxfit.planning.patch_rules import PatchRule, coarser_spacing, needs_cascade, plane_rule, slice_axis, volume_rule
from voxfit.planning.plan import Configuration, ConfigurationName, Limits, Plan

Number = TypeVar("Number", int, float)

MASK_SHARE = 0.75
"""Where cropping leaves at most this share of all voxels, normalisation keeps to the nonzero mask (method.md [P2])."""


@dataclass(frozen=True)
class Extent:
    """The planning rules' view of a dataset.

    Attributes:
        spacing_mm: per-axis median, (z, y, x).
        num_cases: training cases.
        median_shape_at: per-axis median of the shapes at a spacing.
        dimension: 2 for a dataset of 2D images.
    """

    spacing_mm: tuple[float, ...]
    num_cases: int
    median_shape_at: Callable[[Sequence[float]], tuple[int, ...]] = field(repr=False)
    dimension: int = 3


def make_plan(fingerprint: Fingerprint, limits: Limits | None = None) -> Plan:
    """Plan every configuration that the paper offers for a dataset.

    Args:
        fingerprint: the measured facts.
        limits: constants of the rules; default: the paper's.
    """
    limits = limits or Limits()
    extent = Extent(
        fingerprint.median_spacing_mm(), len(fingerprint.cases), fingerprint.median_shape_at, fingerprint.dimension
    )
    return plan_with(fingerprint, limits, normalization_of(fingerprint), plan_configurations(extent, limits))


def plan_with(
    fingerprint: Fingerprint,
    limits: Limits,
    normalization: tuple[Normalization, ...],
    configurations: dict[ConfigurationName, Configuration],
) -> Plan:
    """A plan with a dataset's facts and what a planner decided."""
    return Plan(
        dataset=fingerprint.dataset,
        channel_names=fingerprint.channel_names,
        labels=fingerprint.labels,
        num_cases=len(fingerprint.cases),
        normalization=normalization,
        single_component_labels=fingerprint.single_component_labels,
        limits=limits,
        orientation=fingerprint.orientation,
        configurations=configurations,
    )


def plan_configurations(extent: Extent, limits: Limits) -> dict[ConfigurationName, Configuration]:
    """The configurations by name: 2d; 3d for volumes; 3d_lowres and 3d_cascade where the cases are large [A5]."""
    shape = extent.median_shape_at(extent.spacing_mm)
    configurations: dict[ConfigurationName, Configuration] = {"2d": _plane(extent, shape, limits)}
    if extent.dimension == 2:
        return configurations
    cascade = needs_cascade(shape, limits)
    full = _volume(extent, extent.spacing_mm, shape, limits, dice="batch" if cascade else "sample")
    configurations["3d"] = full
    if cascade:
        spacing, coarse = extent.spacing_mm, shape
        while needs_cascade(coarse, limits):
            spacing = coarser_spacing(spacing)
            coarse = extent.median_shape_at(spacing)
        low = _volume(extent, spacing, coarse, limits, dice="sample")
        reason = (
            f"the median case has {math.prod(shape):,} voxels, more than {limits.cascade_factor} patches of "
            f"{limits.voxel_budget:,}: spacing doubled, fine axes first, until it has at most that many [A5]"
        )
        configurations["3d_lowres"] = low.revised(why=low.why | {"spacing": reason})
        configurations["3d_cascade"] = full.revised(
            previous="3d_lowres",
            why=full.why | {"previous": "refines the segmentation of 3d_lowres, given as extra channels [N1]"},
        )
    return configurations


def _plane(extent: Extent, shape: tuple[int, ...], limits: Limits) -> Configuration:
    axis = 0 if extent.dimension == 2 else slice_axis(extent.spacing_mm)
    plane = _without(shape, axis)
    rule = plane_rule(plane, math.prod(shape), extent.num_cases, limits)
    across = (
        "the images are 2D" if extent.dimension == 2 else f"slices along {'zyx'[axis]}, the axis of largest spacing"
    )
    return Configuration(
        spacing=_without(extent.spacing_mm, axis),
        median_shape=plane,
        patch_size=rule.patch_size,
        batch_size=rule.batch_size,
        num_pool=rule.num_pool,
        base_features=limits.base_features,
        max_features=limits.max_features_2d,
        dice="batch",
        augmentation="2d",
        slice_axis=axis,
        slice_spacing=extent.spacing_mm[axis],
        why={
            "spacing": f"median of {extent.num_cases} training cases; {across} [P2, A2]",
            "patch_size": f"the whole median slice {format_sizes(plane)}, padded so that it can be pooled [A2]",
            "num_pool": f"halved while at least {limits.min_edge} voxels long, {limits.max_pool_2d} times at most [A1]",
            "batch_size": _why_batch(
                rule, f"{limits.plane_voxels:,}", limits.plane_voxels, math.prod(shape), extent.num_cases, limits
            ),
            "dice": "over the batch: slices see only a part of a patient [T2]",
        },
    )


def _volume(
    extent: Extent,
    spacing_mm: tuple[float, ...],
    shape: tuple[int, ...],
    limits: Limits,
    dice: Literal["sample", "batch"],
) -> Configuration:
    rule = volume_rule(shape, spacing_mm, extent.num_cases, limits)
    stretched = max(rule.patch_size) > 2 * min(rule.patch_size)
    whole = all(edge >= size for edge, size in zip(rule.patch_size, shape, strict=True))
    size = (
        f"the median case {format_sizes(shape)}, padded so that it can be pooled"
        if whole
        else f"{limits.voxel_budget:,} voxels in the proportions of the median extent in mm, "
        f"at most {format_sizes(shape)}"
    )
    return Configuration(
        spacing=spacing_mm,
        median_shape=shape,
        patch_size=rule.patch_size,
        batch_size=rule.batch_size,
        num_pool=rule.num_pool,
        base_features=limits.base_features,
        max_features=limits.max_features_3d,
        dice=dice,
        augmentation="2d_slices" if stretched else "3d",
        why={
            "spacing": f"median of {extent.num_cases} training cases [P2]",
            "patch_size": f"{size} [A3]",
            "num_pool": f"halved while at least {limits.min_edge} voxels long, {limits.max_pool_3d} times at most [A1]",
            "batch_size": _why_batch(
                rule,
                f"2 x {limits.voxel_budget:,}",
                2 * limits.voxel_budget,
                math.prod(shape),
                extent.num_cases,
                limits,
            ),
            "dice": "of each sample: a patch covers most of a patient [T2]"
            if dice == "sample"
            else "over the batch: a patch is a small part of a patient [T2]",
            "augmentation": "slice by slice: the longest side of the patch is more than twice the shortest [T6]"
            if stretched
            else "in three dimensions: no side of the patch is more than twice another [T5]",
        },
    )


def _why_batch(rule: PatchRule, words: str, voxels: int, median_voxels: int, num_cases: int, limits: Limits) -> str:
    patch = math.prod(rule.patch_size)
    fits = voxels // patch
    share = round(limits.dataset_fraction * median_voxels * num_cases / patch)
    if rule.batch_size == fits and fits <= share:
        return f"{words} voxels hold {fits} patches [A4]"
    if rule.batch_size == share <= fits:
        return (
            f"{limits.dataset_fraction:.0%} of the dataset's voxels are {share} patches ({words} voxels: {fits}) [A4]"
        )
    return f"the smallest allowed ({words} voxels: {fits}; {limits.dataset_fraction:.0%} of the dataset: {share}) [A4]"


def normalization_of(fingerprint: Fingerprint) -> tuple[Normalization, ...]:
    """The rule of each channel (method.md [P3], [P4])."""
    masked = fingerprint.size_after_cropping() <= MASK_SHARE
    result: list[Normalization] = []
    for name, statistics in zip(fingerprint.channel_names, fingerprint.intensities, strict=True):
        if not is_ct(name):
            result.append(ZScore(inside_mask=masked))
        elif statistics is None:
            result.append(MissingCTStatistics())
        else:
            result.append(
                ClipAndScale(
                    lower=statistics.percentile_00_5,
                    upper=statistics.percentile_99_5,
                    mean=statistics.mean,
                    # A constant channel would be divided by zero.
                    standard_deviation=max(statistics.standard_deviation, 1e-8),
                )
            )
    return tuple(result)


def _without(values: tuple[Number, ...], axis: int) -> tuple[Number, ...]:
    return values[:axis] + values[axis + 1 :]

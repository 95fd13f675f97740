"""Datasets that there could be, for planners; and what ours plans for them, in nnU-Net's order of axes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from voxfit.core.records import digest_of
from voxfit.imaging.labels import Label, Labels, Region
from voxfit.planning.fingerprint import CaseFingerprint, Fingerprint
from voxfit.planning.planners.nnunet_v2_networks import PRESETS, NetworkRule

NAMES = {"2d": "2d", "3d_fullres": "3d", "3d_lowres": "3d_lowres", "3d_cascade_fullres": "3d_cascade"}
"""nnU-Net's names of configurations, and ours."""
PLANNED = [
    (preset, seed, dimension)
    for preset in PRESETS
    for dimension, seeds in ((2, range(3)), (3, range(8, 18)))
    for seed in seeds
]
"""Preset, seed and dimension of the plans that golden files hold."""


def digest_of_fingerprint(fingerprint: Fingerprint) -> str:
    """Of what plans follow from."""
    facts = fingerprint.model_dump(mode="json", exclude={"inputs_digest", "skipped", "classes", "orientation"})
    return digest_of(facts)[:12]


def draw_grid(dice: random.Random) -> tuple[list[float], list[int]]:
    """Spacing in mm and shape of a typical case."""
    match dice.choice(["cube", "large", "stack", "ties"]):
        case "cube":
            return [dice.uniform(0.3, 2)] * 3, [round(2 ** dice.uniform(4, 8.5)) for _ in range(3)]
        case "large":
            return [0.7, 0.7, dice.choice([0.7, 1.5, 3.0])], [dice.choice([300, 512, 600, 900]) for _ in range(3)]
        case "stack":
            return [dice.uniform(2, 12), 0.9, 0.9], [dice.randint(5, 120), *[dice.randint(150, 700)] * 2]
    return [dice.choice([1.0, 2.0, 4.0]), 1.0, 1.0], [dice.choice([64, 128, 255, 256, 257])] * 3


def draw_labels(dice: random.Random) -> Labels:
    values = range(1, dice.randint(2, 6))
    regions = tuple(
        Region(name=f"from {value}", values=tuple(values[value - 1 :]), paste=value) for value in values[:2]
    )
    return Labels(
        classes=tuple(Label(name=f"class {value}", value=value) for value in values),
        regions=regions if dice.random() < 0.3 and len(values) > 1 else (),
        ignore=len(values) + 1 if dice.random() < 0.3 else None,
    )


def draw(seed: int, dimension: int) -> Fingerprint:
    """A dataset that there could be: cases of like size and spacing, cubes and stacks of slices along any axis."""
    dice = random.Random(seed)
    spacing, shape = draw_grid(dice)
    order = dice.sample(range(3), 3)
    spacing, shape = [spacing[axis] for axis in order], [shape[axis] for axis in order]
    if dimension == 2:
        spacing[0], shape[0] = 1.0, 1
    jitter = dice.choice([0.0, 0.02, 0.3])

    def vary(value: float, axis: int) -> float:
        return value if dimension == 2 and axis == 0 else value * (1 + dice.uniform(-jitter, jitter))

    cases = []
    for _ in range(dice.choice([1, 2, 5, 20, 150])):
        sizes = tuple(round(vary(size, axis)) for axis, size in enumerate(shape))
        spacings = tuple(vary(size, axis) for axis, size in enumerate(spacing))
        cases.append(CaseFingerprint(shape=sizes, uncropped_shape=sizes, spacing_mm=spacings))
    channels = dice.randint(1, 3)
    return Fingerprint(
        dataset="Test",
        dimension=dimension,
        channel_names=tuple(f"MRI {index}" for index in range(channels)),
        labels=draw_labels(dice),
        cases=tuple(cases),
        intensities=(None,) * channels,
    )


def ours(rule: NetworkRule, transpose: Sequence[int]) -> dict[str, Any]:
    def turn(values: Sequence[Any]) -> list[Any]:
        return [values[axis] for axis in transpose]

    if rule.slice_axis is not None:
        assert transpose[0] == rule.slice_axis
        spacing = turn(rule.spacing_mm)[1:]
        # Its planes keep the order of their axes.
        assert sorted(transpose[1:]) == list(transpose[1:])
        transpose = (0, 1)
    else:
        spacing = turn(rule.spacing_mm)
    return {
        "spacing": spacing,
        "median_shape": turn(rule.median_shape),
        "patch_size": turn(rule.patch_size),
        "batch_size": rule.batch_size,
        "batch_dice": rule.batch_dice,
        "features": list(rule.features),
        "strides": [turn(stride) for stride in rule.strides],
        "kernels": [turn(kernel) for kernel in rule.kernels],
        "encoder_blocks": list(rule.encoder_blocks),
        "decoder_blocks": list(rule.decoder_blocks),
    }

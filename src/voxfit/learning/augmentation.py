"""Augmentations as a list: each draws its parameters for a sample, and is applied to a batch (method.md [T5]).

`spatial` comes before them: it decides which voxels are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch

from voxfit.core.extensions import GROUPS
from voxfit.learning.intensity import (
    Noise,
    add_noise,
    blur,
    gamma_correct,
    scale_intensity,
    simulate_low_resolution,
    stretch_contrast,
)
from voxfit.learning.randomness import RandomStreams, about_one
from voxfit.learning.row_operations import change_rows
from voxfit.planning.recipes import AugmentationSet, IntensitySet
from voxfit.preprocessing.case import OUTSIDE

Drawn = Sequence[tuple[int, Any]]
"""Numbers of samples in a batch, and the parameters that were drawn for each."""

Images = tuple[torch.Tensor, torch.Tensor]
"""Images (batch, channel, *patch) float32 and labels (batch, layer, *patch) int16 of a batch."""


@dataclass(frozen=True)
class Transform:
    """One augmentation.

    Attributes:
        name: its random numbers follow from it, and from no other augmentation.
        probability: per sample.
        draw: draws the parameters of a sample.
        apply: takes images and labels of a batch, and what was drawn for some of its samples; may work in place.
    """

    name: str
    probability: float
    draw: Callable[[np.random.Generator], Any]
    apply: Callable[[torch.Tensor, torch.Tensor, Drawn], Images]


class AddedAugmentation(Protocol):
    """An augmentation of another package."""

    def __call__(self, image: torch.Tensor, label: torch.Tensor, rng: np.random.Generator) -> Images:
        """Change one sample, whose shapes stay.

        Args:
            image: (channel, *patch) normalised intensities.
            label: (layer, *patch) int16 class indices; the second layer, if any, is the previous stage's segmentation.
            rng: of this sample and this augmentation alone.
        """


def draw_parameters(transforms: Sequence[Transform], streams: RandomStreams) -> dict[str, Any]:
    """The parameters of one sample by the name of the augmentation; only of those that are applied to it."""
    drawn = {}
    for transform in transforms:
        rng = streams.of(transform.name)
        if rng.random() < transform.probability:
            drawn[transform.name] = transform.draw(rng)
    return drawn


def augment(
    transforms: Sequence[Transform], image: torch.Tensor, label: torch.Tensor, drawn: Sequence[Mapping[str, Any]]
) -> Images:
    """Apply augmentations to a batch, one after another; in place where they can.

    Args:
        transforms: in their order.
        image: (batch, channel, *patch).
        label: (batch, layer, *patch).
        drawn: the parameters of each sample, from `draw_parameters`; empty for a sample that stays as it is.
    """
    for transform in transforms:
        some = [(sample, names[transform.name]) for sample, names in enumerate(drawn) if transform.name in names]
        if some:
            image, label = transform.apply(image, label, some)
    return image, label


def list_transforms(
    settings: AugmentationSet,
    *,
    channels: int,
    mirror_axes: int,
    through_plane_axis: int | None = None,
    masked_channels: Sequence[int] = (),
    added: Mapping[str, AddedAugmentation] | None = None,
) -> list[Transform]:
    """All augmentations but the spatial ones, in the order of their application.

    Args:
        settings: ranges and probabilities.
        channels: image channels.
        mirror_axes: how many axes may be flipped.
        through_plane_axis: the axis of the patch whose resolution is kept; None for none.
        masked_channels: those normalised inside the nonzero mask; a set with `intensity` keeps them 0 beyond it.
        added: augmentations of other packages, by name.
    """
    mirroring = partial(_draw_flips, probability=settings.mirror_probability, axes=mirror_axes)
    intensity = settings.intensity
    return [
        *(_intensity_transforms(intensity, channels, through_plane_axis) if intensity else ()),
        Transform("mirroring", 1.0, mirroring, mirror),
        _factor("gamma", settings.gamma_probability, settings.gamma, channels, gamma_correct),
        *([_clear_outside(masked_channels)] if intensity and masked_channels else ()),
        *(_added(name, change) for name, change in (added or {}).items()),
    ]


def _intensity_transforms(settings: IntensitySet, channels: int, through_plane_axis: int | None) -> list[Transform]:
    """Changes of intensity alone, as in nnU-Net v2 (nnUNetTrainer, batchgeneratorsv2)."""

    def noise(rng: np.random.Generator) -> Noise:
        return Noise(float(rng.uniform(*settings.noise_deviation)), int(rng.integers(2**63)))

    def sigmas(rng: np.random.Generator) -> tuple[tuple[float, ...] | None, ...]:
        chosen = rng.random(channels) < settings.blur_channel_probability
        drawn = rng.uniform(*settings.blur_sigma, size=(channels, 3)).tolist()
        return tuple(tuple(sigma) if here else None for here, sigma in zip(chosen, drawn, strict=True))

    def scales(rng: np.random.Generator) -> tuple[float | None, ...]:
        chosen = rng.random(channels) < settings.resolution_channel_probability
        drawn = rng.uniform(*settings.resolution, size=channels).tolist()
        return tuple(scale if here else None for here, scale in zip(chosen, drawn, strict=True))

    coarsen = partial(simulate_low_resolution, through_plane_axis=through_plane_axis)
    invert = partial(gamma_correct, inverted=True)
    return [
        Transform("noise", settings.noise_probability, noise, _add_noise),
        Transform("blur", settings.blur_probability, sigmas, _by_channel(blur)),
        _factor("brightness", settings.brightness_probability, settings.brightness, channels, scale_intensity),
        _factor("contrast", settings.contrast_probability, settings.contrast, channels, stretch_contrast),
        Transform("low_resolution", settings.resolution_probability, scales, _by_channel(coarsen)),
        _factor("inverted_gamma", settings.inverted_gamma_probability, settings.inverted_gamma, channels, invert),
    ]


def _factor(
    name: str,
    probability: float,
    limits: tuple[float, float],
    channels: int,
    change: Callable[[torch.Tensor, list[Any]], torch.Tensor],
) -> Transform:
    """A change of rows by a number about one, drawn for each channel."""

    def draw(rng: np.random.Generator) -> tuple[float, ...]:
        return tuple(about_one(rng, limits) for _ in range(channels))

    return Transform(name, probability, draw, _by_channel(change))


def _draw_flips(rng: np.random.Generator, probability: float, axes: int) -> tuple[int, ...]:
    return tuple(np.flatnonzero(rng.random(axes) < probability).tolist())


def _by_channel(
    change: Callable[[torch.Tensor, list[Any]], torch.Tensor],
) -> Callable[[torch.Tensor, torch.Tensor, Drawn], Images]:
    """Apply a change of rows to the channels for which something was drawn; None leaves a channel as it is."""

    def apply(image: torch.Tensor, label: torch.Tensor, drawn: Drawn) -> Images:
        rows = [
            (sample * image.shape[1] + channel, value)
            for sample, values in drawn
            for channel, value in enumerate(values)
            if value is not None
        ]
        change_rows(image.view(-1, *image.shape[2:]), rows, change)
        return image, label

    return apply


def _add_noise(image: torch.Tensor, label: torch.Tensor, drawn: Drawn) -> Images:
    for sample, noise in drawn:
        add_noise(image[sample], noise)
    return image, label


def mirror(image: torch.Tensor, label: torch.Tensor, drawn: Drawn) -> Images:
    """Flip images and labels along the drawn axes of the patch; in place."""
    alike: dict[tuple[int, ...], list[tuple[int, None]]] = {}
    for sample, axes in drawn:
        alike.setdefault(tuple(axis + 2 for axis in axes), []).append((sample, None))
    for axes, samples in alike.items():
        if axes:
            for tensor in (image, label):
                change_rows(tensor, samples, partial(_flipped, axes=axes))
    return image, label


def _flipped(samples: torch.Tensor, _: Sequence[None], axes: tuple[int, ...]) -> torch.Tensor:
    return samples.flip(axes)


def _clear_outside(masked_channels: Sequence[int]) -> Transform:
    """Sets voxels beyond the nonzero mask to 0 in some channels, whatever other changes made of them."""

    def apply(image: torch.Tensor, label: torch.Tensor, drawn: Drawn) -> Images:
        for sample, _ in drawn:
            for channel in masked_channels:
                image[sample, channel].masked_fill_(label[sample, 0] == OUTSIDE, 0)
        return image, label

    return Transform("nonzero_mask", 1.0, lambda rng: None, apply)


def _added(name: str, change: AddedAugmentation) -> Transform:
    """An augmentation of another package, sample by sample."""

    def apply(image: torch.Tensor, label: torch.Tensor, drawn: Drawn) -> Images:
        for sample, seed in drawn:
            image[sample], label[sample] = change(image[sample], label[sample], np.random.default_rng(seed))
        return image, label

    return Transform(f"{GROUPS['augmentation']}:{name}", 1.0, lambda rng: int(rng.integers(2**63)), apply)

"""Augmentations with given parameters, by the list that training goes through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from voxfit.learning.augmentation import augment, list_transforms
from voxfit.planning.recipes import recipe_named

ALL = recipe_named("nnunet-v2").augmentation_3d


def augmented(
    image: torch.Tensor,
    drawn: Sequence[Mapping[str, Any]],
    label: torch.Tensor | None = None,
    *,
    through_plane_axis: int | None = None,
    masked_channels: Sequence[int] = (),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (batch, channel, *patch) and labels (batch, layer, *patch), changed in place."""
    axes = image.ndim - 2
    transforms = list_transforms(
        ALL,
        channels=image.shape[1],
        mirror_axes=axes,
        through_plane_axis=through_plane_axis,
        masked_channels=masked_channels,
    )
    if label is None:
        label = torch.zeros(len(image), 1, *image.shape[2:], dtype=torch.int16, device=image.device)
    return augment(transforms, image, label, drawn)

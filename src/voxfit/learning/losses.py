"""Dice and cross-entropy (method.md [T2]), binary for regions; voxels without annotation do not count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch.nn import functional

from voxfit.imaging.labels import IGNORED, Labels


class Loss(Protocol):
    """A training loss; `segmentation_loss` is that of the paper, and packages may offer others."""

    def __call__(
        self, logits: torch.Tensor, label: torch.Tensor, labels: Labels, *, per_sample: bool, smoothing: float
    ) -> torch.Tensor:
        """A scalar; see `segmentation_loss`."""


def segmentation_loss(
    logits: torch.Tensor, label: torch.Tensor, labels: Labels, *, per_sample: bool, smoothing: float = 1e-5
) -> torch.Tensor:
    """The training loss, a scalar between -1 and infinity.

    Args:
        logits: (batch, output, *patch).
        label: (batch, *patch) class indices; `IGNORED` counts nowhere, other negative ones are background.
        labels: classes or regions.
        per_sample: Dice of each sample, averaged over the batch; otherwise of the batch as one volume.
        smoothing: added above and below.
    """
    known = label != IGNORED if labels.ignore is not None else None
    if labels.regions:
        target = region_masks(label, labels).to(logits.dtype)
        entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=1)
        probabilities = logits.sigmoid()
    else:
        index = label.clamp(min=0).long()
        target = torch.zeros_like(logits).scatter_(1, index[:, None], 1.0)[:, 1:]
        # Not reduced here: the reduction inside `cross_entropy` is nondeterministic on GPUs.
        entropy = functional.cross_entropy(logits, index, reduction="none")
        probabilities = logits.softmax(dim=1)[:, 1:]
    return _mean_of(entropy, known) + soft_dice_loss(
        probabilities, target, known, per_sample=per_sample, smoothing=smoothing
    )


def soft_dice_loss(
    probabilities: torch.Tensor,
    target: torch.Tensor,
    known: torch.Tensor | None = None,
    *,
    per_sample: bool,
    smoothing: float = 1e-5,
) -> torch.Tensor:
    """-(2/|K|) sum_k (sum u v) / (sum u + sum v), a scalar between -1 and 0.

    Args:
        probabilities: u, (batch, structure, *patch): foreground classes or regions.
        target: v, the same shape, 0 or 1.
        known: (batch, *patch), where the sums go; None for everywhere.
        per_sample, smoothing: see `segmentation_loss`.
    """
    if known is not None:
        probabilities, target = probabilities * known[:, None], target * known[:, None]
    axes = tuple(range(2, target.ndim)) if per_sample else (0, *range(2, target.ndim))
    overlap = (probabilities * target).sum(axes)
    sizes = probabilities.sum(axes) + target.sum(axes)
    return -((2 * overlap + smoothing) / (sizes + smoothing)).mean()


def region_masks(label: torch.Tensor, labels: Labels) -> torch.Tensor:
    """(batch, structure, *patch) booleans: where each of `labels.names` is, for (batch, *patch) class indices."""
    masks = [
        torch.isin(label, torch.tensor(members, dtype=label.dtype, device=label.device)) for members in labels.members
    ]
    return torch.stack(masks, dim=1)


def shrunk(label: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """(batch, *patch) class indices at the nearest voxels of a coarser grid `shape`."""
    if label.shape[1:] == torch.Size(shape):
        return label
    coarse = functional.interpolate(label[:, None].float(), list(shape), mode="nearest-exact")
    return coarse[:, 0].to(label.dtype)


def overlaps(logits: torch.Tensor, label: torch.Tensor, labels: Labels) -> torch.Tensor:
    """Twice the overlap, and the sizes together, of every predicted structure and its reference: (2, structure).

    Args:
        logits: (batch, output, *patch).
        label: (batch, *patch) class indices.
        labels: classes or regions.
    """
    found = logits > 0 if labels.regions else region_masks(logits.argmax(dim=1), labels)
    wanted = region_masks(label, labels)
    found = found & (label != IGNORED)[:, None]
    axes = (0, *range(2, found.ndim))
    return torch.stack([2 * (found & wanted).sum(axes), found.sum(axes) + wanted.sum(axes)])


def _mean_of(entropy: torch.Tensor, known: torch.Tensor | None) -> torch.Tensor:
    """Mean over annotated voxels; 0 where there are none."""
    if known is None:
        return entropy.mean()
    return (entropy * known).sum() / known.sum().clamp(min=1)

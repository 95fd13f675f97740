"""Dice and cross-entropy (method.md [T2])."""

from __future__ import annotations

import torch
from torch.nn import functional


def dice_and_cross_entropy(
    logits: torch.Tensor, target: torch.Tensor, *, per_sample: bool, smoothing: float = 1e-5
) -> torch.Tensor:
    """The training loss, a scalar between -1 and infinity.

    Args:
        logits: (batch, class, *patch).
        target: (batch, *patch) class indices; negative ones count as background.
        per_sample: Dice of each sample, averaged over the batch; otherwise of the batch as one volume.
        smoothing: added above and below.
    """
    target = target.clamp(min=0).long()
    return functional.cross_entropy(logits, target) + soft_dice_loss(
        logits.softmax(dim=1), target, per_sample=per_sample, smoothing=smoothing
    )


def soft_dice_loss(
    probabilities: torch.Tensor, target: torch.Tensor, *, per_sample: bool, smoothing: float = 1e-5
) -> torch.Tensor:
    """-(2/|K|) sum_k (sum u v) / (sum u + sum v) over the foreground classes, a scalar between -1 and 0."""
    foreground = probabilities[:, 1:]
    one_hot = torch.zeros_like(probabilities).scatter_(1, target[:, None], 1.0)[:, 1:]
    axes = tuple(range(2, foreground.ndim)) if per_sample else (0, *range(2, foreground.ndim))
    overlap = (foreground * one_hot).sum(axes)
    sizes = foreground.sum(axes) + one_hot.sum(axes)
    return -((2 * overlap + smoothing) / (sizes + smoothing)).mean()

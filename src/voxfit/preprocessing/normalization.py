"""Intensity normalisation of a prepared image (method.md [P3], [P4])."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from voxfit.core.errors import UsageError
from voxfit.planning.grid import ClipAndScale, Divide, MissingCTStatistics, Normalization, UnitRange, ZScore

_SMALLEST_DEVIATION = 1e-8


def masked_channels(normalization: Sequence[Normalization]) -> tuple[int, ...]:
    """The channels that keep to the nonzero mask."""
    return tuple(number for number, rule in enumerate(normalization) if isinstance(rule, ZScore) and rule.inside_mask)


def normalize(
    image: NDArray[np.float32], normalization: Sequence[Normalization], mask: NDArray[np.bool_] | None
) -> NDArray[np.float32]:
    """Normalise each channel by its rule.

    Args:
        image: (channel, z, y, x), changed in place.
        normalization: one rule for each channel.
        mask: (z, y, x) of nonzero voxels, needed by rules that keep to it.

    Returns:
        `image`.
    """
    for number, rule in enumerate(normalization):
        channel = image[number]  # a view
        match rule:
            case ZScore(inside_mask=True) if mask is not None and mask.any():
                _z_score(channel, channel[mask])
                channel[~mask] = 0
            case ZScore():
                _z_score(channel, channel)
            case ClipAndScale():
                channel.clip(rule.lower, rule.upper, out=channel)
                _standardize(channel, rule.mean, rule.standard_deviation)
            case UnitRange():
                channel -= channel.min()
                channel /= max(float(channel.max()), _SMALLEST_DEVIATION)
            case Divide():
                channel /= rule.by
            case MissingCTStatistics():
                raise UsageError(
                    "The plan has a CT channel without measured intensities. Make it with `voxfit plan DATASET`, "
                    "from the images themselves."
                )
    return image


def _z_score(channel: NDArray[np.float32], sample: NDArray[np.float32]) -> None:
    deviation = max(float(sample.std(dtype=np.float64)), _SMALLEST_DEVIATION)
    _standardize(channel, float(sample.mean(dtype=np.float64)), deviation)


def _standardize(channel: NDArray[np.float32], mean: float, deviation: float) -> None:
    channel -= mean
    channel /= deviation

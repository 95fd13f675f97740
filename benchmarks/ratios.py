"""Ratios of two series that were measured in turn."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """Of the pairs of two series.

    Attributes:
        median: of the ratios, not the ratio of medians: both halves of a pair saw the same machine.
        low, high: the least and the largest ratio.
    """

    median: float
    low: float
    high: float


def ratio_of_pairs(theirs: Sequence[float], ours: Sequence[float]) -> Ratio:
    """How many times as much theirs are, pair by pair.

    Args:
        theirs, ours: positive, equally many, in the order of measuring.

    Raises:
        ValueError: they are not equally many, or there are none.
    """
    if not ours:
        raise ValueError("no pairs")
    ratios = [their / our for their, our in zip(theirs, ours, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))

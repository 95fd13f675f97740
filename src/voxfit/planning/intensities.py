"""Exact statistics of all foreground intensities of a training set, in bounded memory (method.md [P3]).

Where a case has few distinct values (integers, as CT scanners write them), its values are counted one by one, and the
counts of all cases are added. Where it has many (resampled or rescaled images), the first pass counts only the upper
half of the 32 bits of each value, in an order that numbers keep; a second pass then counts the lower half of the few
values that the percentiles lie among. Both ways give the percentile of all voxels, not of a sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from voxfit.core.records import Record

MOST_VALUES_OF_A_CASE, MOST_VALUES = 2**14, 2**17
"""More distinct values than this, of one case and of all, are counted by their upper bits."""

PERCENTILES = (0.5, 99.5)


class Intensities(Record):
    """All intensities of a channel under foreground labels of the training set (method.md [P3])."""

    percentile_00_5: float
    percentile_99_5: float
    mean: float
    standard_deviation: float
    voxels: int


@dataclass(frozen=True)
class Counts:
    """Counted intensities of one case, or of many.

    Attributes:
        keys: distinct values as ordered integers (see `to_keys`): whole ones, or their upper 16 bits.
        counts: how often each occurs.
        whole: whether `keys` are whole.
        total, mean, deviations: number, mean, and sum of squared deviations from it.
    """

    keys: NDArray[np.uint32]
    counts: NDArray[np.int64]
    whole: bool
    total: int
    mean: float
    deviations: float


def to_keys(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Unsigned integers in the order of the numbers: the sign bit turned, negative numbers inverted."""
    bits = (values + np.float32(0)).view(np.uint32)  # adding zero makes one zero of two
    return np.where(bits >> 31, ~bits, bits | np.uint32(0x8000_0000)).astype(np.uint32)


def from_keys(keys: NDArray[np.uint32]) -> NDArray[np.float32]:
    """The inverse of `to_keys`."""
    bits = np.where(keys >> 31, keys & np.uint32(0x7FFF_FFFF), ~keys).astype(np.uint32)
    return bits.view(np.float32)


def count(values: NDArray[np.float32], most: int = MOST_VALUES_OF_A_CASE) -> Counts:
    """Count the intensities of one case; by their upper halves where there are more than `most` distinct ones."""
    keys, counts = np.unique(to_keys(values), return_counts=True)
    exact = values.astype(np.float64)
    mean = float(exact.mean()) if len(exact) else 0.0
    deviations = float(((exact - mean) ** 2).sum())
    return _bounded(Counts(keys, counts.astype(np.int64), True, len(values), mean, deviations), most)


def merge(parts: Iterable[Counts]) -> Counts:
    """The counts of several cases together; of parts that are made one by one, no more than one is kept."""
    return reduce(_join, parts)


def statistics(counts: Counts, refine: Callable[[tuple[int, ...]], Counts]) -> Intensities | None:
    """Mean, deviation and percentiles; None where there are no voxels.

    Args:
        counts: of all cases.
        refine: takes upper halves, returns the whole counts of all values that have them; called only where `counts`
            are not whole.
    """
    if not counts.total:
        return None
    low, high = (_percentile(counts, percent, refine) for percent in PERCENTILES)
    return Intensities(
        percentile_00_5=low,
        percentile_99_5=high,
        mean=counts.mean,
        standard_deviation=math.sqrt(counts.deviations / counts.total),
        voxels=counts.total,
    )


def restrict(values: NDArray[np.float32], uppers: Sequence[int]) -> NDArray[np.float32]:
    """The values whose upper half is one of `uppers`."""
    return values[np.isin(to_keys(values) >> 16, uppers)]


def _bounded(counts: Counts, most: int = MOST_VALUES) -> Counts:
    """Only the upper halves where there are too many values."""
    if not counts.whole or len(counts.keys) <= most:
        return counts
    uppers, position = np.unique(counts.keys >> 16, return_inverse=True)
    sums = np.bincount(position, counts.counts).astype(np.int64)
    return Counts(uppers.astype(np.uint32), sums, False, counts.total, counts.mean, counts.deviations)


def _join(first: Counts, second: Counts) -> Counts:
    whole = first.whole and second.whole
    sides = [item.keys if whole or not item.whole else item.keys >> 16 for item in (first, second)]
    keys, position = np.unique(np.concatenate(sides), return_inverse=True)
    counts = np.bincount(position, np.concatenate([first.counts, second.counts]), len(keys)).astype(np.int64)
    total = first.total + second.total
    gap = second.mean - first.mean
    share = second.total / max(total, 1)
    deviations = first.deviations + second.deviations + gap**2 * first.total * share
    return _bounded(Counts(keys.astype(np.uint32), counts, whole, total, first.mean + gap * share, deviations))


def _percentile(counts: Counts, percent: float, refine: Callable[[tuple[int, ...]], Counts]) -> float:
    """As NumPy's default: linear between the two neighbouring ranks."""
    rank = (counts.total - 1) * percent / 100
    ranks = (math.floor(rank), math.ceil(rank))
    keys, before = counts.keys, 0
    ends = np.cumsum(counts.counts)
    if not counts.whole:
        places = sorted({int(np.searchsorted(ends, whole, side="right")) for whole in ranks})
        before = int(ends[places[0]] - counts.counts[places[0]])
        fine = refine(tuple(int(keys[place]) for place in places))
        keys, ends = fine.keys, np.cumsum(fine.counts)
    below, above = (
        float(from_keys(keys[[int(np.searchsorted(ends, whole - before, side="right"))]])[0]) for whole in ranks
    )
    return below + (above - below) * (rank - ranks[0])

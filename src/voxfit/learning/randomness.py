"""Random numbers that follow from counters: a stream of their own for everything that is drawn for a sample."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np


class RandomStreams:
    """The random numbers of one sample: one stream for each name, whatever the others have drawn.

    A Philox generator turns a key and a counter into random numbers. The key comes from the sample's counters, and the
    highest word of the counter from the name, so streams meet only where two names have one CRC-32. Setting the counter
    takes 1 us; a generator of NumPy's for each name would take 10 us.

    Args:
        counters: which sample it is, such as (seed, stream, epoch, step, number).
    """

    def __init__(self, counters: Sequence[int]) -> None:
        self._philox = np.random.Philox(np.random.SeedSequence(counters))
        self._generator = np.random.Generator(self._philox)
        self._start = self._philox.state

    def of(self, name: str) -> np.random.Generator:
        """The stream of a name, from its beginning. It must not be used after the next call."""
        self._start["state"]["counter"][3] = zlib.crc32(name.encode())
        self._philox.state = self._start
        return self._generator


def about_one(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    """A random factor: below 1 and above 1 with equal chance, whatever the widths of the two parts."""
    low, high = limits
    if low < 1 and (high <= 1 or rng.random() < 0.5):
        return float(rng.uniform(low, min(high, 1.0)))
    return float(rng.uniform(max(low, 1.0), high))

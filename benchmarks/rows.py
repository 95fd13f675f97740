"""All rows, in the order of the table. These modules import what they measure only when they measure it."""

from __future__ import annotations

from benchmarks import augmenting, predicting, preparing, resampling, sliding, starting, stepping, tile
from benchmarks.row import Row

ROWS: tuple[Row, ...] = (
    *resampling.ROWS,
    *preparing.ROWS,
    *augmenting.ROWS,
    *stepping.ROWS,
    *predicting.ROWS,
    *tile.ROWS,
    *sliding.ROWS,
    *starting.ROWS,
)

"""Prepared cases on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from voxfit.imaging.geometry import Geometry
from voxfit.imaging.volume import Volume
from voxfit.planning.grid import Grid, Normalization, ZScore
from voxfit.preprocessing.case import prepare
from voxfit.preprocessing.store import Store, write_case, write_manifest


def write_store(
    folder: Path,
    cases: Mapping[str, tuple[np.ndarray, np.ndarray]],
    num_classes: int,
    normalization: tuple[Normalization, ...] = (ZScore(),),
) -> Store:
    """Prepare cases at 1 mm and write them.

    Args:
        folder: An existing folder.
        cases: Each case's image (channel, z, y, x) and label map (z, y, x).
        num_classes: With the background.
        normalization: One rule a channel.
    """
    grid = Grid(spacing_mm=(1.0, 1.0, 1.0), normalization=normalization)
    for name, (image, label) in cases.items():
        volume = Volume(image, Geometry(label.shape, (1.0, 1.0, 1.0)))
        write_case(folder, name, prepare(volume, grid, label), num_classes)
    write_manifest(folder, list(cases), "x")
    return Store(folder)

"""Where patches lie in a case: anywhere, or about a voxel of a random foreground class (method.md [T8])."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voxfit.imaging.geometry import Box
from voxfit.imaging.labels import Labels
from voxfit.preprocessing.store import Store

Voxel = tuple[int, int, int]
"""Indices (z, y, x)."""


@dataclass(frozen=True)
class PatchLocations:
    """Draws the places of patches.

    Attributes:
        store: the prepared cases.
        labels: their classes.
        patch_box: (z, y, x) voxels.
    """

    store: Store
    labels: Labels
    patch_box: tuple[int, ...]

    def place(self, rng: np.random.Generator, name: str, label: NDArray[np.integer], *, on_foreground: bool) -> Box:
        """Where the patch lies. Inside the case where it fits, else the case lies in its middle."""
        size = self.patch_box
        voxel = self.foreground_voxel(rng, name, label) if on_foreground else None
        if voxel is None and self.labels.ignore is not None:
            # A patch without annotation teaches nothing: its centre, at least, was annotated.
            voxel = self._random_voxel(rng, name, label, range(self.labels.count))
        start = []
        for axis, (length, edge) in enumerate(zip(label.shape, size, strict=True)):
            room = length - edge
            if room < 0:
                start.append(room // 2)
            elif voxel is None:
                start.append(int(rng.integers(room + 1)))
            else:
                start.append(min(max(voxel[axis] - edge // 2, 0), room))
        return Box(tuple(start), tuple(low + edge for low, edge in zip(start, size, strict=True)))

    def foreground_voxel(self, rng: np.random.Generator, name: str, label: NDArray[np.integer]) -> Voxel | None:
        """A random voxel of a random foreground class (or region) that the case has; None where it has none."""
        voxels = self.store.index(name).sum(axis=1)
        present = [members for members in self.labels.members if voxels[list(members)].any()]
        return self._random_voxel(rng, name, label, present[rng.integers(len(present))]) if present else None

    def _random_voxel(
        self, rng: np.random.Generator, name: str, label: NDArray[np.integer], classes: Sequence[int]
    ) -> Voxel | None:
        """A random voxel of any of `classes`; None where there is none."""
        slices = self.store.index(name)[list(classes)].sum(axis=0)
        ends = np.cumsum(slices)
        if not ends[-1]:
            return None
        rank = int(rng.integers(ends[-1]))
        z = int(np.searchsorted(ends, rank, side="right"))
        within = rank - int(ends[z] - slices[z])
        y, x = np.unravel_index(int(np.flatnonzero(np.isin(label[z], list(classes)))[within]), label.shape[1:])
        return z, int(y), int(x)

"""Prepared cases on disk: memory-mapped arrays, of which training reads only the boxes it needs.

`NAME.image.npy` (channel, z, y, x) float32, `NAME.label.npy` (z, y, x) int8 or int16, and `NAME.index.npy`
(class, z): how many voxels of each class each slice has. The index finds a uniformly random voxel of a class by
reading one slice, without a list of voxels.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from voxfit.core.durability import save_array
from voxfit.core.errors import WorkspaceError
from voxfit.core.records import Record
from voxfit.preprocessing.case import Placement, PreparedCase


class StoreManifest(Record):
    """What a store was made from, and where each of its cases lies in its image."""

    schema_name: ClassVar[str] = "voxfit.store/1"
    made_from: str
    placements: dict[str, Placement]


class Store:
    """Read access to a folder of prepared cases."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = StoreManifest.load(folder / "manifest.json")
        self._open = lru_cache(maxsize=256)(_open)

    def image(self, name: str) -> NDArray[np.float32]:
        """Memory-mapped (channel, z, y, x)."""
        return self._open(self.folder / f"{name}.image.npy")

    def label(self, name: str) -> NDArray[np.integer[Any]]:
        """Memory-mapped (z, y, x)."""
        return self._open(self.folder / f"{name}.label.npy")

    def index(self, name: str) -> NDArray[np.int64]:
        """Voxels of each class (axis 0, background first) in each slice (axis 1, z)."""
        return self._open(self.folder / f"{name}.index.npy")


def write_case(folder: Path, name: str, case: PreparedCase, classes: int) -> None:
    """Write one prepared training case.

    Raises:
        WorkspaceError: it could not be written (disk full).
    """
    if case.label is None:
        raise WorkspaceError(f"{name}: only cases with a label go into a store.")
    label = case.label.astype(np.int8 if classes <= np.iinfo(np.int8).max else np.int16)
    index = np.stack([(label == index).sum(axis=(1, 2)) for index in range(classes)]).astype(np.int64)
    try:
        save_array(folder / f"{name}.image.npy", case.image, durable=False)
        save_array(folder / f"{name}.label.npy", label, durable=False)
        save_array(folder / f"{name}.index.npy", index, durable=False)
    except OSError as error:
        for part in ("image", "label", "index"):
            (folder / f"{name}.{part}.npy").unlink(missing_ok=True)
        raise WorkspaceError(
            f"{folder}: {name} cannot be written ({error.strerror}). Free space and run again."
        ) from error


def _open(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise WorkspaceError(
            f"{path}: cannot be read ({error}). Delete the store folder; `fit` makes it again."
        ) from None
    return array

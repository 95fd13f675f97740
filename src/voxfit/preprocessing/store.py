"""Prepared cases on disk: memory-mapped arrays, of which training reads only the boxes it needs.

`NAME.image.npy` (channel, z, y, x) float32, `NAME.label.npy` (z, y, x) int8 or int16, and `NAME.index.npy`
(class, z): how many voxels of each class each slice has. The index finds a uniformly random voxel of a class by
reading one slice, without a list of voxels. `NAME.case.json` says where the case lies in its image. So nothing that
training reads grows with the number of cases but a line for each in the manifest of the store.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from voxfit.core.durability import open_array, save_array
from voxfit.core.errors import RecordError, WorkspaceError
from voxfit.core.records import Made, Record
from voxfit.preprocessing.case import PreparedCase, PreprocessingGeometry

_REMEDY = "Delete the store folder; `fit` makes it again."
_OPEN_FILES = 96
"""Memory maps that a store keeps, three a case: each holds a file open, and some systems allow a process 256."""


class StoreManifest(Made):
    """What a store was made from, and how many voxels each of its prepared cases has."""

    schema_name: ClassVar[str] = "voxfit.store/3"
    inputs_digest: str
    voxels: dict[str, int]


class StoredCase(Record):
    """Where a prepared case lies in its image, and a checksum of its arrays."""

    schema_name: ClassVar[str] = "voxfit.prepared_case/1"
    placement: PreprocessingGeometry
    checksum: int


class Store:
    """Read access to a folder of prepared cases; `manifest` is that of the folder, where it has been read."""

    def __init__(self, folder: Path, manifest: StoreManifest | None = None) -> None:
        self.folder = folder
        self.manifest = manifest or StoreManifest.load(folder / "manifest.json")
        self._open = lru_cache(maxsize=_OPEN_FILES)(_open)

    def placement(self, name: str) -> PreprocessingGeometry:
        """Where a case lies in its image."""
        try:
            return StoredCase.load(_case_file(self.folder, name)).placement
        except RecordError as error:
            raise WorkspaceError(f"{error} {_REMEDY}") from None

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
    arrays: tuple[NDArray[Any], ...] = (case.image, label, index)
    paths = _array_files(folder, name)
    try:
        for path, array in zip(paths, arrays, strict=True):
            save_array(path, array, durable=False)
    except OSError as error:
        for path in paths:
            path.unlink(missing_ok=True)
        raise WorkspaceError(
            f"{folder}: {name} cannot be written ({error.strerror}). Free space and run again."
        ) from error
    record = StoredCase(placement=case.placement, checksum=_checksum(arrays))
    record.save(_case_file(folder, name), durable=False)


def is_written(folder: Path, name: str) -> bool:
    """Whether a case is there as it was written. A power cut may have left files without their content."""
    try:
        arrays = [_open(path) for path in _array_files(folder, name)]
        return StoredCase.load(_case_file(folder, name)).checksum == _checksum(arrays)
    except (RecordError, WorkspaceError):
        return False


def manifest_of(folder: Path, names: Sequence[str], inputs_digest: str) -> StoreManifest:
    """What makes a store of a folder into which cases were written, once it is there as `manifest.json`."""
    shapes = {name: StoredCase.load(_case_file(folder, name)).placement.shape for name in names}
    voxels = {name: math.prod(shape) for name, shape in shapes.items()}
    return StoreManifest(inputs_digest=inputs_digest, voxels=voxels)


def write_manifest(folder: Path, names: Sequence[str], inputs_digest: str) -> None:
    """Make a store of a folder into which cases were written."""
    manifest_of(folder, names, inputs_digest).save(folder / "manifest.json")


def _array_files(folder: Path, name: str) -> list[Path]:
    return [folder / f"{name}.{part}.npy" for part in ("image", "label", "index")]


def _case_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.case.json"


def _checksum(arrays: Sequence[NDArray[Any]]) -> int:
    """Four gigabytes a second."""
    return reduce(lambda found, array: zlib.crc32(np.ascontiguousarray(array).data, found), arrays, 0)


def _open(path: Path) -> NDArray[Any]:
    return open_array(path, _REMEDY)

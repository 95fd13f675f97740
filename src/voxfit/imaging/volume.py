"""Images with their geometry, and the files they come from (everything SimpleITK reads).

Every file is read by a reader of the list `READERS`, which compares what the file promises with what it holds before
SimpleITK sees it. A new format is a module with a `Reader` and its place in that list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from voxfit.imaging.geometry import Geometry
from voxfit.imaging.headers import fault
from voxfit.imaging.itk_reader import array_of, geometry_of
from voxfit.imaging.metaimage import METAIMAGE
from voxfit.imaging.nifti import NIFTI
from voxfit.imaging.nrrd import NRRD
from voxfit.imaging.pictures import BMP, PNG, TIFF


class Reader(Protocol):
    """Reads the files of one format. Both methods check a file first, and raise DatasetError or OSError."""

    @property
    def endings(self) -> tuple[str, ...]:
        """Of the names of its files, in lower case and with the dot."""

    def read_geometry(self, path: Path) -> Geometry:
        """The grid of an image, from its header alone."""

    def read(self, path: Path) -> tuple[NDArray[np.generic], Geometry]:
        """The voxels (channel, z, y, x) in the type of the file, and their grid."""


READERS: tuple[Reader, ...] = (NIFTI, NRRD, METAIMAGE, PNG, TIFF, BMP)

_READER_OF = {ending: reader for reader in READERS for ending in reader.endings}
FILE_ENDINGS = tuple(_READER_OF)

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Volume:
    """An image and where it is.

    Attributes:
        array: images are (channel, z, y, x) float32, label maps (z, y, x) of an integer type.
        geometry: the grid of the last three axes.
    """

    array: NDArray[np.generic]
    geometry: Geometry


def file_ending(path: Path) -> str:
    """The ending of an image file, `.nii.gz` counted as one; empty for other files."""
    name = path.name.lower()
    return next((ending for ending in FILE_ENDINGS if name.endswith(ending)), "")


def read_image(path: Path) -> Volume:
    """Read an image as (channel, z, y, x) float32; the fourth axis of a 4D file and RGB are channels.

    Raises:
        DatasetError: the file is missing, incomplete, no image, or holds NaN or infinity.
    """
    voxels, geometry = _read(path, lambda reader: reader.read(path))
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is reported below
        array = voxels.astype(np.float32, copy=False)
    # One pass: a sum is finite only when every term is (or overflows, which the exact test then settles).
    with np.errstate(invalid="ignore", over="ignore"):
        total = array.sum(dtype=np.float64)
    if not np.isfinite(total) and not np.isfinite(array).all():
        bad = int(array.size - np.isfinite(array).sum())
        raise fault(path, f"{bad} voxels are NaN or infinite.", "Replace them (by 0, say) and save it again.")
    return Volume(array, geometry)


def read_geometry(path: Path) -> Geometry:
    """The grid of an image as `read_image` has it, from its header alone: voxels may be missing, or be no numbers.

    Raises:
        DatasetError: the file is missing, or its header is not to be used.
    """
    return _read(path, lambda reader: reader.read_geometry(path))


def read_label(path: Path) -> Volume:
    """Read a label map as (z, y, x) integers.

    Raises:
        DatasetError: the file is missing, incomplete, no image, has several channels or fractional values.
    """
    channels, geometry = _read(path, lambda reader: reader.read(path))
    if len(channels) != 1:
        raise fault(path, "the label has several channels.", "Save it as one channel of integers.")
    array = channels[0]
    if array.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            whole = array.astype(np.int64 if np.abs(array).max(initial=0) >= 2**31 else np.int32)
        if not np.array_equal(whole, array):
            raise fault(path, "the label has fractional values.", "Save it with integers (nearest neighbour).")
        array = whole
    return Volume(array, geometry)


def from_sitk(image: sitk.Image) -> Volume:
    """The (channel, z, y, x) float32 volume of a SimpleITK image of 2, 3 or (channels last) 4 dimensions."""
    geometry = geometry_of(image)
    return Volume(array_of(image, geometry).astype(np.float32, copy=False), geometry)


def _read(path: Path, ask: Callable[[Reader], Answer]) -> Answer:
    """Ask the reader of a file's format for something: the one way in which image files are opened."""
    where = _checked_path(path)
    try:
        return ask(_READER_OF[file_ending(path)])
    except OSError as error:
        what = f"cannot be read ({error.strerror})."
        raise fault(where, what, "Check the file and its permissions.") from None


def check_text(path: Path) -> None:
    """Refuse a name that no record could hold, as it is no UTF-8.

    Raises:
        DatasetError: it is none.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise fault(ascii(str(path)), "the name is not UTF-8.", "Rename it.") from None


def _checked_path(path: Path) -> str:
    """The name of a file that is there and holds something."""
    check_text(path)
    where = str(path)
    if not path.is_file():
        raise fault(where, "there is no such file.", "Add it or correct its name.")
    if path.stat().st_size == 0:
        raise fault(where, "the file is empty.", "Copy it again from its source.")
    if not file_ending(path):
        raise fault(where, "has an unknown file ending.", f"Files of these can be read: {', '.join(FILE_ENDINGS)}.")
    return where

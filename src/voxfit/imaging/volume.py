"""Images with their geometry, and the files they come from (everything SimpleITK reads).

What a file promises is compared with what it holds before SimpleITK sees it: `voxfit.imaging.nifti`,
`metaimage`, `pictures` and `headers`. No file is opened in any other way.
"""

from __future__ import annotations

import math
import re
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from voxfit.core.errors import DatasetError, Problem
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.headers import READERS, Source, bytes_of, check_claim, check_spacing, complex_voxels, locate_nrrd
from voxfit.imaging.metaimage import locate_metaimage
from voxfit.imaging.nifti import check_nifti
from voxfit.imaging.pictures import check_picture, spacing_beside
from voxfit.imaging.placing import read_placing

FILE_ENDINGS = tuple(READERS)
NIFTI = (".nii.gz", ".nii")
TIFF = (".tif", ".tiff")

_READING = threading.Lock()
"""One file at a time in a process: ITK's NIfTI reader (5.4) notes the name it reads in a string that all threads share.

Two that replace it at once free it twice, and the process dies, about once in some thousand datasets read by threads.
"""

sitk.ProcessObject.SetGlobalWarningDisplay(False)  # what matters of its warnings is an error here


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
    image, geometry = _read(path)
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is reported below
        array = sitk.GetArrayFromImage(image).astype(np.float32, copy=False)
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.ascontiguousarray(np.moveaxis(array, -1, 0))
    elif image.GetDimension() != 4:
        array = array[None]
    array = array.reshape((-1, *geometry.shape))
    # One pass: a sum is finite only when every term is (or overflows, which the exact test then settles).
    with np.errstate(invalid="ignore", over="ignore"):
        total = array.sum(dtype=np.float64)
    if not np.isfinite(total) and not np.isfinite(array).all():
        bad = int(array.size - np.isfinite(array).sum())
        raise DatasetError(
            Problem(str(path), f"{bad} voxels are NaN or infinite.", "Replace them (by 0, say) and save it again.")
        )
    return Volume(array, geometry)


def read_geometry(path: Path) -> Geometry:
    """The grid of an image as `read_image` has it, from its header alone: voxels may be missing, or be no numbers.

    Raises:
        DatasetError: the file is missing, or its header is not to be used.
    """
    return _read(path, header_only=True)[1]


def read_label(path: Path) -> Volume:
    """Read a label map as (z, y, x) integers.

    Raises:
        DatasetError: the file is missing, incomplete, no image, has several channels or fractional values.
    """
    image, geometry = _read(path)
    array = sitk.GetArrayFromImage(image)
    if array.size != int(np.prod(geometry.shape)):
        raise DatasetError(Problem(str(path), "the label has several channels.", "Save it as one channel of integers."))
    array = array.reshape(geometry.shape)
    if array.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            whole = array.astype(np.int64 if np.abs(array).max(initial=0) >= 2**31 else np.int32)
        if not np.array_equal(whole, array):
            raise DatasetError(
                Problem(str(path), "the label has fractional values.", "Save it with integers (nearest neighbour).")
            )
        array = whole
    return Volume(array, geometry)


def from_sitk(image: sitk.Image) -> Volume:
    """The (channel, z, y, x) float32 volume of a SimpleITK image of 2, 3 or (channels last) 4 dimensions."""
    array = sitk.GetArrayFromImage(image).astype(np.float32)
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)
    geometry = _geometry_of(image)
    return Volume(np.ascontiguousarray(array.reshape((-1, *geometry.shape))), geometry)


def _geometry_of(image: Any) -> Geometry:
    """Of a SimpleITK image, or of a reader that has read a header."""
    dimension = image.GetDimension()
    size, spacing, origin = image.GetSize(), image.GetSpacing(), image.GetOrigin()
    rows = np.reshape(image.GetDirection(), (dimension, dimension))
    if dimension == 2:
        direction = np.eye(3)
        direction[:2, :2] = rows
        return Geometry(
            (1, *size[::-1]), (1.0, *spacing[::-1]), (*origin, 0.0), tuple(direction.ravel().tolist()), dimension=2
        )
    direction = rows[:3, :3]
    return Geometry(
        tuple(size[2::-1]), tuple(spacing[2::-1]), tuple(origin[:3]), tuple(direction.ravel().tolist()), dimension=3
    )


def _read(path: Path, *, header_only: bool = False) -> tuple[Any, Geometry]:
    """An image, or a reader that has read its header; and its grid."""
    where = _checked_path(path)
    ending = file_ending(path)
    try:
        source = _look_into(path, ending, header_only=header_only)
        image = _execute(path, READERS[ending], source, header_only=header_only)
    except OSError as error:
        raise DatasetError(
            Problem(where, f"cannot be read ({error.strerror}).", "Check the file and its permissions.")
        ) from None
    if image.GetDimension() not in (2, 3, 4):
        raise DatasetError(
            Problem(where, f"has {image.GetDimension()} dimensions.", "Images have 2 or 3, and channels.")
        )
    geometry = _geometry_of(image)
    if ending in TIFF and geometry.dimension == 3:
        geometry = replace(geometry, spacing_mm=spacing_beside(path, ending) or geometry.spacing_mm)
    _check_grid(where, geometry)
    return image, replace(geometry, oriented=_says_direction(path, ending))


def _says_direction(path: Path, ending: str) -> bool:
    if ending in NIFTI:
        placing = read_placing(path)
        return placing is not None and bool(placing.affines)
    return ending in (".nrrd", ".mha", ".mhd")


def _look_into(path: Path, ending: str, *, header_only: bool) -> Source | None:
    """Compare a file with what it promises; where its voxels are, if SimpleITK must be asked how many there are."""
    if ending in NIFTI:
        check_nifti(path, ending, header_only=header_only)
        return None
    if ending in (".mha", ".mhd"):
        return locate_metaimage(path)
    if ending == ".nrrd":
        return locate_nrrd(path)
    check_picture(path, ending)
    return Source(path.stat().st_size, packed=True)


def _checked_path(path: Path) -> str:
    """The name of a file that is there and holds something."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise DatasetError(Problem(ascii(str(path)), "the name is not UTF-8.", "Rename it.")) from None
    where = str(path)
    if not path.is_file():
        raise DatasetError(Problem(where, "there is no such file.", "Add it or correct its name."))
    if path.stat().st_size == 0:
        raise DatasetError(Problem(where, "the file is empty.", "Copy it again from its source."))
    if not file_ending(path):
        raise DatasetError(
            Problem(where, "has an unknown file ending.", f"Files of these can be read: {', '.join(FILE_ENDINGS)}.")
        )
    return where


def _execute(path: Path, reader_name: str, source: Source | None, *, header_only: bool) -> Any:
    """Read with one reader only; what the header claims is looked at before memory is taken."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO(reader_name)
    reader.SetFileName(str(path))
    try:
        with _READING:
            if source is not None:
                _check_header(path, reader, source)
            if header_only:
                reader.ReadImageInformation()
                return reader
            return reader.Execute()
    except (RuntimeError, MemoryError) as error:
        what, remedy = _explain(error, path)
        raise DatasetError(Problem(str(path), what, remedy)) from None


def _check_header(path: Path, reader: sitk.ImageFileReader, source: Source) -> None:
    reader.ReadImageInformation()
    pixel = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if "complex" in pixel:
        raise complex_voxels(str(path))
    check_claim(path, source, math.prod(reader.GetSize()) * reader.GetNumberOfComponents(), bytes_of(pixel))


def _explain(error: BaseException, path: Path) -> tuple[str, str]:
    """What SimpleITK stopped at, without its addresses and paths: fact and remedy."""
    reason = _last_line(error)
    if "orthonormal" in reason:
        return _SKEWED, _STRAIGHTEN
    if "not recognized as a NIFTI file" in reason:  # though its header makes sense
        return "is a NIfTI file of a kind that SimpleITK does not read, such as NIfTI-2.", "Save it as NIfTI-1."
    reason = re.sub(r"^(?:ITK |sitk::)?ERROR:\s*|\w+\(0x[0-9a-f]+\):\s*", "", reason)
    if isinstance(error, MemoryError) or not re.search(r"[a-z]", reason) or re.search(r"0x|Reason:|file:", reason):
        return "is damaged, or no image of this kind.", "Replace or remove the file."
    return f"is not a readable image ({reason.replace(str(path), path.name)}).", "Replace or remove the file."


_SKEWED = "the axes in its header are not orthonormal (at right angles, of length 1)."
_STRAIGHTEN = "Correct its direction (sform, qform, TransformMatrix), or resample it to a grid with right angles."
_STRAIGHT = 1e-2


def _check_grid(where: str, geometry: Geometry) -> None:
    """Spacing, origin and direction are such that distances mean something."""
    check_spacing(geometry.spacing_mm[::-1][: geometry.dimension], where)
    axes = np.reshape(geometry.direction, (3, 3))
    with np.errstate(over="ignore", invalid="ignore"):
        skew = np.abs(axes.T @ axes - np.eye(3)).max()
    if not (np.isfinite(geometry.origin_mm).all() and skew <= _STRAIGHT):
        raise DatasetError(Problem(where, _SKEWED, _STRAIGHTEN))


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__

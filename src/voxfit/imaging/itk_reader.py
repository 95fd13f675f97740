"""Files read by SimpleITK, after the checks of their format and with the one reader of that format."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from voxfit.imaging.geometry import Geometry
from voxfit.imaging.headers import Source, bytes_of, check_claim, check_spacing, complex_voxels, fault

_READING = threading.Lock()
"""One file at a time in a process: ITK's NIfTI reader (5.4) notes the name it reads in a string that all threads share.

Two that replace it at once free it twice, and the process dies, about once in some thousand datasets read by threads.
"""

sitk.ProcessObject.SetGlobalWarningDisplay(False)  # what matters of its warnings is an error here


Check = Callable[[Path], Source | None]
"""Compares a file with what its header promises, before SimpleITK sees it.

It returns where the voxels are, so that their number, which SimpleITK finds in the header, can be compared with the
length of the file; or None where the check has done that itself. It raises DatasetError or OSError.
"""


def _as_found(path: Path, geometry: Geometry) -> Geometry:
    return geometry


def without_direction(path: Path, geometry: Geometry) -> Geometry:
    """The geometry of a format that does not say where its axes point."""
    return replace(geometry, oriented=False)


@dataclass(frozen=True)
class ItkReader:
    """Reads the files of one format, a `voxfit.imaging.volume.Reader`.

    Attributes:
        endings: of the names of its files, in lower case and with the dot.
        image_io: SimpleITK's name of the only reader that it may use.
        check: done before SimpleITK opens a file.
        check_header: done instead where only the header is read; None where `check` reads no voxels.
        amend: what the file says of its geometry besides what SimpleITK finds.
    """

    endings: tuple[str, ...]
    image_io: str
    check: Check
    check_header: Check | None = None
    amend: Callable[[Path, Geometry], Geometry] = _as_found

    def read_geometry(self, path: Path) -> Geometry:
        """The grid of an image, from its header alone."""
        reader = self._execute(path, self.check_header or self.check, header_only=True)
        return self._amended_geometry(path, reader)

    def read(self, path: Path) -> tuple[NDArray[np.generic], Geometry]:
        """The voxels (channel, z, y, x) in the type of the file, and their grid."""
        image = self._execute(path, self.check, header_only=False)
        geometry = self._amended_geometry(path, image)
        return array_of(image, geometry), geometry

    def _execute(self, path: Path, check: Check, *, header_only: bool) -> Any:
        """A SimpleITK image, or a reader that has read its header; the header is checked before memory is taken."""
        source = check(path)
        reader = sitk.ImageFileReader()
        reader.SetImageIO(self.image_io)
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
            raise fault(path, what, remedy) from None

    def _amended_geometry(self, path: Path, image: Any) -> Geometry:
        if image.GetDimension() not in (2, 3, 4):
            what = f"has {image.GetDimension()} dimensions."
            raise fault(path, what, "Images have 2 or 3, and channels.")
        geometry = self.amend(path, geometry_of(image))
        _check_grid(str(path), geometry)
        return geometry


def array_of(image: sitk.Image, geometry: Geometry) -> NDArray[np.generic]:
    """The voxels (channel, z, y, x) of a SimpleITK image; the fourth axis of a 4D image and colours are channels."""
    array = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.ascontiguousarray(np.moveaxis(array, -1, 0))
    return array.reshape((-1, *geometry.shape))


def geometry_of(image: Any) -> Geometry:
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
        raise fault(where, _SKEWED, _STRAIGHTEN)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__

"""Images and label maps into files (everything SimpleITK writes)."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from voxfit.core.durability import UNFINISHED, replace_durably
from voxfit.core.errors import UsageError, WorkspaceError
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.nifti import NIFTI
from voxfit.imaging.pictures import TIFF, write_spacing_beside
from voxfit.imaging.placing import read_placing, write_nifti
from voxfit.imaging.volume import FILE_ENDINGS, file_ending


def write_label(path: Path, array: NDArray[np.generic], geometry: Geometry, like: Path | None = None) -> None:
    """Write a label map (z, y, x) with exactly this geometry; built beside its place, then renamed.

    TIFF has no spacing along z, so that of a stack is written beside it, as `read_image` expects it.

    Args:
        path: the file.
        array: of an integer type.
        geometry: of the image.
        like: the image's file; where both are NIfTI, the label map gets all of its header that says where it is.

    Raises:
        UsageError: the ending is unknown.
        WorkspaceError: the file cannot be written (disk full).
    """
    ending = file_ending(path)
    if not ending:
        raise UsageError(f"{path}: unknown file ending; use one of {', '.join(FILE_ENDINGS)}.")
    # The header of an .mhd names the file of its voxels, so it is written in place.
    temporary = path if ending == ".mhd" else path.with_name(f".{path.name[: -len(ending)]}{UNFINISHED}{ending}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()  # says why it cannot be written, which SimpleITK does not
        if ending in TIFF.endings and geometry.dimension == 3:
            write_spacing_beside(path, geometry.spacing_mm)
        placing = read_placing(like) if like and ending in NIFTI.endings else None
        if placing and placing.shape == array.shape:
            write_nifti(temporary, array, placing)
        else:
            sitk.WriteImage(to_sitk(array, geometry), str(temporary), useCompression=True)
        replace_durably(temporary, path)
    except (RuntimeError, OSError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        reason = error.strerror if isinstance(error, OSError) else "SimpleITK could not finish it"
        raise WorkspaceError(f"{path}: cannot be written ({reason}). Free space or choose another folder.") from error


def write_image(path: Path, array: NDArray[np.generic], geometry: Geometry) -> None:
    """Write an image (z, y, x) or (channel, z, y, x) with exactly this geometry; several channels become a 4D file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if array.ndim == 4 and len(array) > 1:
        image = sitk.JoinSeries([to_sitk(channel, geometry) for channel in array])
    else:
        image = to_sitk(array[0] if array.ndim == 4 else array, geometry)
    sitk.WriteImage(image, str(path), useCompression=True)


def to_sitk(array: NDArray[np.generic], geometry: Geometry) -> sitk.Image:
    """A SimpleITK image of (z, y, x) voxels; two-dimensional when the geometry is."""
    if geometry.dimension == 2:
        image = sitk.GetImageFromArray(np.ascontiguousarray(array[0]))
        image.SetSpacing(geometry.spacing_mm[:0:-1])
        image.SetOrigin(geometry.origin_mm[:2])
        image.SetDirection(np.reshape(geometry.direction, (3, 3))[:2, :2].ravel().tolist())
        return image
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing(geometry.spacing_mm[::-1])
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(geometry.direction)
    return image

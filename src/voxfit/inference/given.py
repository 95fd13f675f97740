"""What a program hands to `Model.predict`, as a volume; what cannot be segmented is refused in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from voxfit.core.errors import DatasetError, Problem, UsageError
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.volume import Volume, from_sitk


def volume_of(image: object, spacing_mm: Sequence[float] | None = None) -> Volume:
    """The volume (channel, z, y, x) of a SimpleITK image, or of an array with its spacing.

    Raises:
        UsageError: it is something else, or the spacing does not go with it.
        DatasetError: it holds NaN or infinity.
    """
    if isinstance(image, sitk.Image):
        if spacing_mm is not None:
            raise UsageError("spacing_mm is for arrays; a SimpleITK image has its own. Leave it out, or SetSpacing.")
        _require_real(image)
        volume = from_sitk(image)
    else:
        volume = _volume_of_array(_array_of(image), spacing_mm)
    if bad := int(volume.array.size - np.isfinite(volume.array).sum()):
        what = f"{bad} voxels are NaN, infinite or beyond float32."
        raise DatasetError(Problem("image", what, "Replace them, by 0 say."))
    return volume


def _require_real(image: sitk.Image) -> None:
    if image.GetDimension() not in (2, 3, 4) or "complex" in image.GetPixelIDTypeAsString():
        raise UsageError(
            f"The image has {image.GetDimension()} dimensions of {image.GetPixelIDTypeAsString()}. "
            "Give one of 2 or 3 dimensions, or of 4 with the channels last, of real numbers."
        )
    if not image.GetNumberOfPixels():
        raise UsageError("The image has no voxels.")


def _array_of(image: object) -> NDArray[np.generic]:
    """The array that an object is; nothing else becomes one by guessing."""
    kind = type(image)
    if isinstance(image, str | PathLike):
        raise UsageError(
            f"predict takes an image, not a path ({image}). {_how_to_read(Path(image))} "
            "`voxfit predict` and `Model.predict_case` read files."
        )
    if hasattr(image, "dataobj"):  # nibabel's
        raise UsageError(
            "predict takes no nibabel image, whose axes are (x, y, z). Read the file by SimpleITK.ReadImage, or give "
            "predict(numpy.asarray(image.dataobj).transpose(), image.header.get_zooms()[2::-1])."
        )
    if not hasattr(image, "__array__") and not isinstance(image, list | tuple):
        raise UsageError(f"predict takes a SimpleITK image or an array, not {kind.__module__}.{kind.__qualname__}.")
    try:
        array = np.asarray(image)
    except (TypeError, ValueError, RuntimeError) as error:  # lists of unequal length, tensors on a GPU
        raise UsageError(f"predict cannot make an array of {kind.__module__}.{kind.__qualname__} ({error}).") from None
    if array.dtype.kind not in "biuf":
        raise UsageError(f"predict takes arrays of real numbers, not of {array.dtype}.")
    return array


def _how_to_read(path: Path) -> str:
    if path.is_dir():
        return (
            "Read a DICOM series by SimpleITK.ReadImage(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames"
            f"({str(path)!r})) and give what it returns."
        )
    return f"Give SimpleITK.ReadImage({str(path)!r})."


def _volume_of_array(array: NDArray[np.generic], spacing_mm: Sequence[float] | None) -> Volume:
    if spacing_mm is None:
        raise UsageError("predict needs spacing_mm for an array: the voxel size in mm, in the order of its axes.")
    try:
        sizes = tuple(float(size) for size in spacing_mm)
    except (TypeError, ValueError):
        raise UsageError(f"spacing_mm is {spacing_mm!r}. Give a number for each spatial axis of the array.") from None
    axes = len(sizes)
    if axes not in (2, 3) or array.ndim not in (axes, axes + 1):
        raise UsageError(f"An array of {array.ndim} axes does not go with a spacing of {axes}.")
    if not all(0 < size < math.inf for size in sizes):
        raise UsageError(f"spacing_mm is {', '.join(f'{size:g}' for size in sizes)}. Sizes of voxels are above 0.")
    if not array.size:
        raise UsageError(f"The array has no voxels: its shape is {array.shape}.")
    full = (1,) * (3 - axes) + array.shape[-axes:]
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is reported
        voxels = array.reshape((-1, *full)).astype(np.float32)
    return Volume(voxels, Geometry(full, (1.0,) * (3 - axes) + sizes, dimension=axes, oriented=False))

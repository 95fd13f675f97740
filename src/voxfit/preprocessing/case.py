"""Prepare a case for the network, and bring predicted label maps back to the case's own grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from voxfit.core.errors import DatasetError, Problem
from voxfit.core.formatting import format_sizes
from voxfit.imaging.geometry import Box, Geometry, Turn, cut, paste
from voxfit.imaging.headers import memory_bytes
from voxfit.imaging.volume import Volume
from voxfit.planning.fingerprint import crop_box, resampled_shape
from voxfit.planning.grid import Grid
from voxfit.preprocessing.normalization import masked_channels, normalize
from voxfit.preprocessing.resampling import coarse_axis, resample, resample_linear, resample_nearest

OUTSIDE = -1
"""Stored label of background outside of the nonzero mask."""

Scalar = TypeVar("Scalar", bound=np.generic)
Image = NDArray[np.float32]
Label = NDArray[np.int16]


@dataclass(frozen=True)
class PreprocessingGeometry:
    """Where a prepared case lies in its image.

    Attributes:
        geometry: of the image, as it is stored.
        crop: the nonzero box in the turned image.
        shape: (z, y, x) of the prepared case, covering the same extent as `crop`.
        coarse_axis: the one of (z, y, x) that is resampled separately on the way back, if any.
        turn: what brought the image to the axes of the training cases; None where it has them.
    """

    geometry: Geometry
    crop: Box
    shape: tuple[int, ...]
    coarse_axis: int | None = None
    turn: Turn | None = None

    def uncrop(self, label: NDArray[Scalar]) -> NDArray[Scalar]:
        """A label map of the crop, as one of the whole image on its own axes."""
        if self.turn is None:
            return paste(label, self.crop, self.geometry.shape)
        whole = paste(label, self.crop, self.turn.order(self.geometry.shape))
        return np.ascontiguousarray(self.turn.undo(whole))


@dataclass(frozen=True)
class PreparedCase:
    """A case as the network sees it.

    Attributes:
        image: (channel, z, y, x) float32: cropped, resampled and normalised.
        label: (z, y, x) class indices, `OUTSIDE` for background beyond the nonzero mask; None without label.
        placement: the way back.
    """

    image: Image
    label: Label | None
    placement: PreprocessingGeometry


def prepare(volume: Volume, grid: Grid, label: Label | None = None) -> PreparedCase:
    """Crop, resample, normalise (method.md [P1]-[P4]); or, as nnU-Net v2 does, normalise and then resample.

    An image whose axes point elsewhere than the grid's is turned first; no voxel is interpolated for that.

    Args:
        volume: the image (channel, z, y, x).
        grid: spacing, normalisation, preparation and orientation of the plan.
        label: (z, y, x) class indices on the image's grid.

    Raises:
        DatasetError: it would become larger than memory.
    """
    image = np.asarray(volume.array, np.float32)
    spacing_mm = volume.geometry.spacing_mm
    turn = Turn.between(volume.geometry.orientation, grid.orientation)
    if turn is not None:
        image, spacing_mm = turn.apply(image), turn.order(spacing_mm)
        label = None if label is None else turn.apply(label)
    new_spacing_mm = grid.spacing_of(spacing_mm)
    crop = crop_box(image)
    shape = resampled_shape(crop.shape, spacing_mm, new_spacing_mm)
    _check_size(shape, len(image), spacing_mm)
    ratio = grid.preparation.coarse_axis_ratio
    prepare_crop = _resample_first if grid.preparation.first == "resample" else _normalize_first
    there = coarse_axis(spacing_mm, new_spacing_mm, ratio)
    # The crop gets no name here, so that its memory is free as soon as it is resampled.
    prepared, prepared_label = prepare_crop(
        _part(image, crop), None if label is None else _part(label, crop), grid, shape, there
    )
    back = coarse_axis(new_spacing_mm, spacing_mm, ratio)
    return PreparedCase(prepared, prepared_label, PreprocessingGeometry(volume.geometry, crop, shape, back, turn))


def _part(array: NDArray[Scalar], crop: Box) -> NDArray[Scalar]:
    """A copy whose rows lie one after the other in memory, those of a turned image too."""
    return np.array(cut(array, crop, copy=False), order="C")


def _check_size(shape: tuple[int, ...], channels: int, spacing_mm: tuple[float, ...]) -> None:
    """A spacing that was written in other units would ask for a grid that nothing holds."""
    needed = math.prod(shape) * channels * 4
    if needed > memory_bytes():
        what = f"with its spacing of {format_sizes(spacing_mm)} mm (z, y, x) it would become "
        what += f"{format_sizes(shape)} voxels at the plan's spacing, more than memory holds."
        raise DatasetError(Problem("image", what, "Correct the spacing in its header."))


def _resample_first(
    image: Image, label: Label | None, grid: Grid, shape: tuple[int, ...], separate_axis: int | None
) -> tuple[Image, Label | None]:
    """Bring a cropped case to a grid, then normalise it (method.md [P2]-[P4]).

    Args:
        image: (channel, z, y, x).
        label: (z, y, x) class indices.
        grid: normalisation and preparation.
        shape: the new (z, y, x).
        separate_axis: the axis that is resampled by nearest neighbour, if any.
    """
    # The nonzero mask is resampled beside the label; the image is zero outside of it afterwards.
    mask = resample_nearest(_filled(image), shape) if masked_channels(grid.normalization) else None
    image = resample(image, shape, order=3, separate_axis=separate_axis)
    if label is not None:
        label = _mark_outside(_resample_label(label, grid, shape, separate_axis), mask)
    return normalize(image, grid.normalization, mask), label


def _normalize_first(
    image: Image, label: Label | None, grid: Grid, shape: tuple[int, ...], separate_axis: int | None
) -> tuple[Image, Label | None]:
    """As nnU-Net v2: `OUTSIDE` is a label before resampling, and no value leaves the normalised range.

    Arguments are those of `_resample_first`.
    """
    mask = None
    if label is not None or masked_channels(grid.normalization):
        mask = _filled(image, slices=False)
        if label is not None:
            mask |= label != 0  # what is labelled is inside
    image = normalize(image, grid.normalization, mask)
    if label is not None:
        label = _resample_label(_mark_outside(label, mask), grid, shape, separate_axis)
    return resample(image, shape, order=3, separate_axis=separate_axis, clip=True), label


def _resample_label(label: Label, grid: Grid, shape: tuple[int, ...], separate_axis: int | None) -> Label:
    if grid.preparation.labels == "linear":
        return resample_linear(label, shape, separate_axis=separate_axis)
    return resample_nearest(label, shape)


def _mark_outside(label: Label, mask: NDArray[np.bool_] | None) -> Label:
    return label if mask is None else np.where(mask | (label != 0), label, np.int16(OUTSIDE))


def _filled(image: Image, *, slices: bool = True) -> NDArray[np.bool_]:
    """Voxels that are nonzero in any channel, holes filled; all of them where the image is all zero.

    Args:
        image: (channel, z, y, x).
        slices: whether holes of an image that is a single slice are filled too; nnU-Net v2 leaves them open.
    """
    import cc3d

    mask = (image != 0).any(axis=0)
    if not mask.any():
        return np.ones_like(mask)
    if slices and mask.shape[0] == 1:  # in three dimensions every hole would be open
        import scipy.ndimage

        return np.asarray(scipy.ndimage.binary_fill_holes(mask[0]))[None]
    # What is zero and connected by faces to no side of the volume is a hole; SciPy's way takes five times as long.
    parts, count = cc3d.connected_components(~mask, connectivity=6, return_N=True)
    is_hole = np.ones(count + 1, bool)
    is_hole[0] = False  # the mask itself
    for axis in range(3):
        for side in (0, -1):
            is_hole[parts.take(side, axis)] = False
    return np.asarray(mask | is_hole[parts]) if is_hole.any() else mask

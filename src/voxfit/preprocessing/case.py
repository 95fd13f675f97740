"""Prepare a case for the network, and bring what the network says back to the case's own grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from voxfit.imaging.geometry import Box, Geometry, cut, paste
from voxfit.imaging.volume import Volume
from voxfit.planning.fingerprint import crop_box, resampled_shape
from voxfit.planning.grid import Grid
from voxfit.preprocessing.normalization import needs_mask, normalize
from voxfit.preprocessing.resampling import resample, resample_nearest

OUTSIDE = -1
"""Stored label of voxels outside of the nonzero mask."""


@dataclass(frozen=True)
class Placement:
    """Where a prepared case lies in its image.

    Attributes:
        geometry: of the image.
        crop: the nonzero box in it.
        shape: (z, y, x) of the prepared case, covering the same extent as `crop`.
    """

    geometry: Geometry
    crop: Box
    shape: tuple[int, ...]

    def restore(self, probabilities: NDArray[np.float32]) -> NDArray[np.uint8]:
        """From probabilities on the prepared grid to class indices on the image's grid (method.md [I3]).

        Args:
            probabilities: (class, z, y, x), background first.

        Returns:
            (z, y, x) class indices; background outside of the crop.
        """
        full = resample(probabilities, self.crop.shape, order=1)
        return self.uncrop(full.argmax(axis=0).astype(np.uint8))

    def uncrop(self, label: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A label map of the crop, as one of the whole image."""
        return paste(label, self.crop, self.geometry.shape)


@dataclass(frozen=True)
class PreparedCase:
    """A case as the network sees it.

    Attributes:
        image: (channel, z, y, x) float32: cropped, resampled, normalised.
        label: (z, y, x) class indices, `OUTSIDE` beyond the nonzero mask; None for a case without label.
        placement: the way back.
    """

    image: NDArray[np.float32]
    label: NDArray[np.int16] | None
    placement: Placement


def prepare(volume: Volume, grid: Grid, label: NDArray[np.int16] | None = None) -> PreparedCase:
    """Crop, resample, normalise (method.md [P1]-[P4]).

    Args:
        volume: the image (channel, z, y, x).
        grid: spacing and normalisation of the plan.
        label: (z, y, x) class indices on the image's grid.
    """
    image = np.asarray(volume.array, np.float32)
    geometry = volume.geometry
    crop = crop_box(image)
    cropped = cut(image, crop)
    shape = resampled_shape(crop.shape, geometry.spacing_mm, grid.spacing_of(geometry.spacing_mm))
    mask = None
    if needs_mask(grid.normalization):
        mask = resample_nearest(_filled(cropped), shape)
    result = normalize(resample(cropped, shape, order=3), grid.normalization, mask)
    prepared_label = None
    if label is not None:
        prepared_label = resample_nearest(cut(label, crop), shape)
        if mask is not None:
            prepared_label = np.where(mask | (prepared_label > 0), prepared_label, np.int16(OUTSIDE))
    return PreparedCase(result, prepared_label, Placement(geometry, crop, shape))


def _filled(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Voxels that are nonzero in any channel, holes filled; all of them where the image is all zero."""
    mask = (image != 0).any(axis=0)
    if not mask.any():
        return np.ones_like(mask)
    if mask.shape[0] == 1:  # a single slice: in three dimensions every hole would be open
        return np.asarray(scipy.ndimage.binary_fill_holes(mask[0]))[None]
    return np.asarray(scipy.ndimage.binary_fill_holes(mask))

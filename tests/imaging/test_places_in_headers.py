"""NIfTI headers in other units and near half a turn, and label maps of other shapes: SimpleITK decides."""

from __future__ import annotations

import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from voxfit.imaging.geometry import Geometry
from voxfit.imaging.places import placing_problem
from voxfit.imaging.placing import read_placing
from voxfit.imaging.volume import read_geometry, read_label
from voxfit.imaging.writing import write_label

AFFINE = np.eye(4)
AFFINE[:3, :3] = Rotation.from_euler("xyz", [10, -25, 40], degrees=True).as_matrix() * [1.1, 0.7, 2.3]
AFFINE[:3, 3] = 31.7, -12.3, 400.1
_QUATERNION = 256
"""Where a NIfTI-1 header has quatern_b, quatern_c and quatern_d."""


def save(path: Path, units: str = "mm", *, sform: bool = True) -> None:
    image = nib.Nifti1Image(np.zeros((6, 5, 4), np.int16), AFFINE)
    image.set_sform(AFFINE, int(sform))
    image.set_qform(AFFINE, 1)
    image.header.set_xyzt_units(units)
    nib.save(image, path)


@pytest.mark.parametrize("units", ["mm", "meter", "micron", "unknown"])
def test_places_are_in_millimetres_whatever_the_unit(tmp_path: Path, units: str) -> None:
    save(tmp_path / "x.nii", units)
    placing, seen = read_placing(tmp_path / "x.nii"), read_geometry(tmp_path / "x.nii").affine()
    assert placing is not None
    assert placing.affines.keys() == {"sform", "qform"}
    for affine in placing.affines.values():
        np.testing.assert_allclose(affine, seen, atol=1e-5 * np.abs(seen).max())
    assert placing_problem(tmp_path / "x.nii") is None


def test_a_quaternion_near_half_a_turn_is_read_as_simpleitk_does(tmp_path: Path) -> None:
    """The part that is not stored is rounding, where the others leave less than 1e-7 for its square."""
    save(tmp_path / "x.nii", sform=False)
    parts = np.array([0.6, 0.0, np.nextafter(np.float32(0.8), np.float32(0))], np.float32)
    assert 1e-8 < 1 - (parts.astype(np.float64) ** 2).sum() < 1e-7
    with (tmp_path / "x.nii").open("r+b") as stream:
        stream.seek(_QUATERNION - 4)
        stream.write(struct.pack("<2h3f", 1, 0, *parts))
    placing, seen = read_placing(tmp_path / "x.nii"), read_geometry(tmp_path / "x.nii").affine()
    assert placing is not None
    np.testing.assert_allclose(placing.affines["qform"], seen, atol=2e-5)


def test_a_label_map_of_another_shape_has_the_place_that_it_is_given(tmp_path: Path) -> None:
    save(tmp_path / "image.nii.gz")
    geometry = Geometry((7, 3, 2), (1.5, 2.5, 3.5), (4.0, 5.0, 6.0), (0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0))
    label = np.arange(42, dtype=np.uint8).reshape(7, 3, 2)
    write_label(tmp_path / "x.nii.gz", label, geometry, like=tmp_path / "image.nii.gz")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "x.nii.gz"))), label)
    np.testing.assert_allclose(read_label(tmp_path / "x.nii.gz").geometry.affine(), geometry.affine(), atol=1e-5)

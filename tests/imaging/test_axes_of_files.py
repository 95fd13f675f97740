"""Which files say where their axes point: images of those that do not are never turned."""

import struct

import numpy as np
import pytest
import SimpleITK as sitk

from voxfit.imaging.volume import read_geometry, read_image

_CODES = 252
"""Where a NIfTI-1 header has qform_code and sform_code."""


@pytest.fixture
def image():
    return sitk.DICOMOrient(sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5)), "PSR")


@pytest.mark.parametrize(("ending", "axes"), [(".nii", "PSR"), (".mha", "PSR"), (".nrrd", "PSR"), (".tif", "")])
def test_pictures_do_not_say_it(image, tmp_path, ending, axes):
    path = tmp_path / f"x{ending}"
    sitk.WriteImage(image, str(path))
    if not axes:
        path.with_suffix(".json").write_text('{"spacing": [1, 1, 1]}')
    assert read_geometry(path).orientation == read_image(path).geometry.orientation == axes


@pytest.mark.parametrize(("codes", "says"), [((1, 1), True), ((1, 0), True), ((0, 1), True), ((0, 0), False)])
def test_a_nifti_header_says_it_by_either_code(image, tmp_path, codes, says):
    path = tmp_path / "x.nii"
    sitk.WriteImage(image, str(path))
    with path.open("r+b") as stream:
        stream.seek(_CODES)
        stream.write(struct.pack("<2h", *codes))
    assert bool(read_geometry(path).orientation) == says

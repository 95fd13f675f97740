"""What a program may hand to `Model.predict`; all else is an error that says what to do."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from voxfit.core.errors import DatasetError, UsageError, VoxfitError
from voxfit.inference.given import volume_of

VOXELS = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
NIBABEL = nib.Nifti1Image(VOXELS.transpose(), np.diag([3.0, 2.0, 1.0, 1.0]))


@pytest.mark.parametrize(
    ("image", "spacing", "words"),
    [
        (NIBABEL, None, "no nibabel image"),
        (NIBABEL, (1, 1, 1), "no nibabel image"),
        ("scan.nii.gz", None, "SimpleITK.ReadImage"),
        (b"scan.nii.gz", (1, 1, 1), "not builtins.bytes"),
        (None, None, "not builtins.NoneType"),
        (object(), (1, 1, 1), "not builtins.object"),
        ([[1, 2], [3]], (1, 1), "cannot make an array"),
        (np.array(["a"]), (1, 1), "real numbers"),
        (np.zeros((2, 2, 2), complex), (1, 1, 1), "real numbers"),
        (np.array([None, 1]), (1, 1), "real numbers"),
        (VOXELS, None, "needs spacing_mm"),
        (VOXELS, 1.0, "spacing_mm is 1.0"),
        (VOXELS, ("a", "b", "c"), "spacing_mm is"),
        (VOXELS[None], (1, 1), "does not go with"),
        (VOXELS[0], (1, 1, 1), "does not go with"),
        (VOXELS, (1, 0, 1), "above 0"),
        (VOXELS, (1, -1, 1), "above 0"),
        (VOXELS, (1, np.nan, 1), "above 0"),
        (VOXELS, (1, np.inf, 1), "above 0"),
        (VOXELS[:0], (1, 1, 1), "no voxels"),
        (np.full((2, 2, 2), np.nan), (1, 1, 1), "8 voxels are NaN"),
        (np.full((2, 2, 2), 1e300), (1, 1, 1), "8 voxels are NaN, infinite or beyond"),
        (sitk.GetImageFromArray(VOXELS), (1, 1, 1), "has its own"),
        (sitk.Image((4, 4, 4), sitk.sitkComplexFloat32), None, "real numbers"),
        (sitk.Image((2, 2, 2, 2, 2), sitk.sitkFloat32), None, "5 dimensions"),
        (sitk.Image(), None, "no voxels"),
        (sitk.Image((2, 2, 2), sitk.sitkFloat32) / 0, None, "8 voxels are NaN"),
    ],
    ids=lambda value: str(type(value)) if not isinstance(value, str) else value,
)  # fmt: skip
def test_what_cannot_be_segmented_is_refused_in_words(image, spacing, words):
    with pytest.raises(VoxfitError, match=words):
        volume_of(image, spacing)


def test_a_folder_is_taken_for_a_dicom_series(tmp_path):
    with pytest.raises(UsageError, match="GetGDCMSeriesFileNames"):
        volume_of(tmp_path)


def test_what_is_said_of_nibabel_images_works():
    """The remedy of the message, word for word, on axes of different spacing."""
    with pytest.raises(UsageError) as raised:
        volume_of(NIBABEL)
    advice = str(raised.value).split("predict(")[1].rstrip(".")[:-1]
    array, spacing = eval(f"({advice})", {"numpy": np, "image": NIBABEL})
    volume = volume_of(array, spacing)
    np.testing.assert_array_equal(volume.array[0], VOXELS)
    assert volume.geometry.spacing_mm == (1.0, 2.0, 3.0)


@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy, lambda array: array.tolist(), np.asfortranarray])
def test_arrays_of_any_kind_are_taken(make):
    volume = volume_of(make(VOXELS), [3, 2, 1])
    np.testing.assert_allclose(volume.array[0], VOXELS)
    assert volume.geometry.spacing_mm == (3.0, 2.0, 1.0)


def test_the_caller_keeps_his_voxels():
    given = VOXELS.copy()
    volume_of(given, (1, 1, 1)).array[:] = 0
    np.testing.assert_array_equal(given, VOXELS)


def test_infinity_in_an_image_is_an_error_of_the_data():
    image = sitk.GetImageFromArray(np.where(VOXELS > 1, np.inf, VOXELS))
    with pytest.raises(DatasetError, match=f"{(VOXELS > 1).sum()} voxels"):
        volume_of(image)

"""Label maps are compared over the foreground: background that is equal proves little."""

import numpy as np
import pytest
import SimpleITK as sitk

from benchmarks.outputs import label_maps


@pytest.fixture
def folders(tmp_path):
    """Two images of 10,000 voxels with 100 voxels of label 1 and 50 of label 2 in each."""
    label = np.zeros((10, 25, 40), np.uint8)
    label[0, 0:5, 0:20], label[5, 0:5, 0:10] = 1, 2
    for side in ("ours", "theirs"):
        for name in ("a", "b"):
            write(tmp_path / side / f"{name}.nii.gz", label)
    return tmp_path / "ours", tmp_path / "theirs"


def write(path, array):
    path.parent.mkdir(exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))


def change(folder, value, voxels):
    path = folder / "a.nii.gz"
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    found = np.flatnonzero(array == 2)[:voxels]
    array.flat[found] = value
    write(path, array)


def test_equal_folders(folders):
    said = label_maps(*folders, least=0.999)
    assert said == (
        "2 images: 0 voxels differ, 300 are foreground, lowest Dice of a label 1.0000 (at least 99.9 % must be equal)"
    )


def test_few_voxels_of_the_image_are_many_of_the_foreground(folders):
    """3 of 20,000 voxels are 1 % of the foreground."""
    change(folders[0], 1, 3)
    assert "3 voxels differ, 300 are foreground" in label_maps(*folders, least=0.99)
    with pytest.raises(AssertionError, match=r"only 99\.0000 % of the foreground is equal"):
        label_maps(*folders, least=0.991)


@pytest.mark.parametrize("side", [0, 1])
def test_foreground_is_what_either_sees(folders, side):
    """Background where the other sees a label counts as different."""
    change(folders[side], 0, 3)
    assert "3 voxels differ, 300 are foreground" in label_maps(*folders, least=0.99)


def test_dice_of_the_label_that_agrees_least(folders):
    """Of label 2, 90 voxels agree, of 90 and 100; of label 1, 200 of 200 and 210."""
    change(folders[0], 1, 10)
    assert f"lowest Dice of a label {2 * 90 / 190:.4f} (at least 0.9)" in label_maps(*folders, dice=0.9)
    with pytest.raises(AssertionError, match=r"a label has a Dice of only 0\.9474"):
        label_maps(*folders, dice=0.95)


def test_networks_that_see_nothing(folders):
    for folder in folders:
        for path in folder.iterdir():
            write(path, np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(AssertionError, match="sees nothing"):
        label_maps(*folders)

"""The label maps that names of images lead to: one for each patient, made from that patient's image."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import SimpleITK as sitk

from bad_input.faults_names import model_of_two_channels
from bad_input.place import Place, run_voxfit


def predicted(place: Place, *inputs: Path) -> tuple[int, list[str]]:
    """Exit code and names of the label maps."""
    code, _ = run_voxfit([*place.predict(*inputs), "--no-mirror"])
    return code, sorted(path.name for path in (place.root / "out").iterdir() if not path.name.startswith("."))


@pytest.fixture
def images(place: Place) -> Path:
    """Two images of one channel and of different sizes, whose names end in four digits."""
    folder = place.root / "images"
    folder.mkdir()
    for name, source in (("amos_1001", "box_05"), ("amos_1002", "box_06")):
        shutil.copyfile(place.data / "imagesTs" / f"{source}_0000.nii.gz", folder / f"{name}.nii.gz")
    return folder


@pytest.mark.parametrize("given", ["folder", "files", "one after the other"])
def test_two_patients_are_two_label_maps(place: Place, images: Path, given: str) -> None:
    files = sorted(images.iterdir())
    for inputs in {"folder": [[images]], "files": [files], "one after the other": [[file] for file in files]}[given]:
        code, names = predicted(place, *inputs)
        assert code == 0
    assert names == ["amos_1001.nii.gz", "amos_1002.nii.gz"]
    for name in names:
        label, image = (sitk.ReadImage(str(folder / name)) for folder in (place.root / "out", images))
        assert label.GetSize() == image.GetSize()
        assert label.GetOrigin() == image.GetOrigin()


def test_they_are_never_the_channels_of_one_image(place: Place, images: Path) -> None:
    model_of_two_channels(place)
    shutil.copyfile(images / "amos_1001.nii.gz", images / "amos_1002.nii.gz")  # of one shape they could be
    assert predicted(place, images) == (2, [])


@pytest.mark.parametrize("numbers", [("0000", "0002"), ("0001", "0002"), ("0000", "0001", "0002"), ("0001",)])
def test_nothing_is_made_from_wrong_channels(place: Place, numbers: tuple[str, ...]) -> None:
    model_of_two_channels(place)
    source = place.data / "imagesTs" / "box_05_0000.nii.gz"
    folder = place.root / "images"
    folder.mkdir()
    for name in (*(f"x_{number}" for number in numbers), "y_0000", "y_0001"):
        shutil.copyfile(source, folder / f"{name}.nii.gz")
    assert predicted(place, folder) == (2, ["y.nii.gz"])


def test_an_image_of_all_channels_may_have_any_number(place: Place) -> None:
    model_of_two_channels(place)
    one = sitk.ReadImage(str(place.data / "imagesTs" / "box_05_0000.nii.gz"))
    folder = place.root / "images"
    folder.mkdir()
    for name in ("scan_1001", "scan_1002", "z_0000"):
        sitk.WriteImage(sitk.JoinSeries([one, one]), str(folder / f"{name}.nii.gz"))
    assert predicted(place, folder) == (0, ["scan_1001.nii.gz", "scan_1002.nii.gz", "z_0000.nii.gz"])

"""Faults of file names, descriptions, and of cases that are unlike the others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from bad_input.faults import DESCRIPTION, GRIDS, LABELS, PREDICT, fault
from bad_input.place import Place, make_model

# -- names of files --


def _rename_all(place: Place, old: str, new: str) -> None:
    """In the names of all training files."""
    for room in ("imagesTr", "labelsTr"):
        for path in sorted((place.data / room).iterdir()):
            path.rename(path.with_name(path.name.replace(old, new)))


@fault(DESCRIPTION, "Cases of one channel whose names end in four digits", ending="silent")
def _(place: Place) -> list[str]:
    _rename_all(place, "_0000", "")
    _rename_all(place, "box_", "amos_00")
    return place.check()


@fault(DESCRIPTION, "One image without the number of its channel", "box_03.nii.gz: lacks the number of its channel")
def _(place: Place) -> list[str]:
    place.image(3).rename(place.data / "imagesTr" / "box_03.nii.gz")
    return place.check()


@fault(DESCRIPTION, "A label with the number of a channel", "its label is named box_03_0000.nii.gz", "Rename it")
def _(place: Place) -> list[str]:
    place.label(3).rename(place.data / "labelsTr" / "box_03_0000.nii.gz")
    return place.check()


@fault(DESCRIPTION, "More channel files than channels", "has the channel files _0000, _0001, but there is 1 channel")
def _(place: Place) -> list[str]:
    shutil.copyfile(place.image(3), place.data / "imagesTr" / "box_03_0001.nii.gz")
    return place.check()


@fault(
    DESCRIPTION, "Channel files with a gap, where dataset.json lists NAME.nii.gz", "has the channel files _0000, _0002"
)
def _(place: Place) -> list[str]:
    place.in_msd_form()
    place.describe(channel_names={"0": "T1", "1": "T2"})
    for number in range(5):
        path = place.data / "imagesTr" / f"box_{number:02}.nii.gz"
        shutil.copyfile(path, path.with_name(f"box_{number:02}_000{1 if number else 2}.nii.gz"))
        path.rename(path.with_name(f"box_{number:02}_0000.nii.gz"))
    return place.check()


@fault(DESCRIPTION, ".nii beside .nii.gz", "2 files are not used: box_03_0000.nii, box_04_0000.nii", ending="warning")
def _(place: Place) -> list[str]:
    for number in (3, 4):
        for path in (place.image(number), place.label(number)):
            sitk.WriteImage(sitk.ReadImage(str(path)), str(path).removesuffix(".gz"))
            path.unlink()
    place.describe(numTraining=5)
    return place.check()


@fault(DESCRIPTION, "Images in JPEG", "box_00_0000.jpg: JPEG is not read. Save it as PNG")
def _(place: Place) -> list[str]:
    place.as_format(".png")
    for path in (place.data / "imagesTr").iterdir():
        sitk.WriteImage(sitk.ReadImage(str(path)), str(path.with_suffix(".jpg")))
        path.unlink()
    return place.check()


@fault(DESCRIPTION, "Files that belong to no case", "notes.txt", "box_04 copy.nii.gz", ending="warning")
def _(place: Place) -> list[str]:
    place.in_msd_form()
    (place.data / "labelsTr" / "notes.txt").touch()
    shutil.copyfile(place.label(4), place.data / "labelsTr" / "box_04 copy.nii.gz")
    return place.check()


# -- what dataset.json says --


@fault(DESCRIPTION, "A dataset.json of {}", '"channel_names" is missing', '"labels" is missing')
def _(place: Place) -> list[str]:
    (place.data / "dataset.json").write_text(json.dumps({}))
    return place.check()


@fault(DESCRIPTION, "Values of labels as strings", ending="silent")
def _(place: Place) -> list[str]:
    place.describe(labels={"background": "0", "left": "2", "right": "5"})
    return place.check()


@fault(DESCRIPTION, "The value 0 under another name", 'the label "left" has the value 0', ending="warning")
def _(place: Place) -> list[str]:
    place.describe(labels={"left": 0, "right": 5, "middle": 2})
    return place.check()


@fault(DESCRIPTION, "Background that is not 0", '"background" has the value 2, but background is 0')
def _(place: Place) -> list[str]:
    place.describe(labels={"background": 2, "right": 5})
    return place.check()


@fault(DESCRIPTION, "Regions from small to large: the large one covers the small one", "right gets lost there")
def _(place: Place) -> list[str]:
    place.describe(labels={"background": 0, "right": 5, "whole": [2, 5]}, regions_class_order=[5, 2])
    return place.check()


@fault(DESCRIPTION, "Two regions that are written with one value", "right gets lost there")
def _(place: Place) -> list[str]:
    place.describe(labels={"background": 0, "whole": [2, 5], "right": 5}, regions_class_order=[2, 2])
    return place.check()


# -- cases unlike the others --


def _scale_spacing(place: Place, factor: float) -> list[str]:
    for path in (place.image(3), place.label(3)):
        place.header(path, lambda image: image.SetSpacing([size * factor for size in image.GetSpacing()]))
    return place.check()


@fault(GRIDS, "A spacing in metres in one case", "box_03: its spacing is", "would become 1 x 1 x 1.")
def _(place: Place) -> list[str]:
    return _scale_spacing(place, 1e-3)


@fault(GRIDS, "A spacing ten times too large in one case", "box_03: its spacing is", ending="warning")
def _(place: Place) -> list[str]:
    return _scale_spacing(place, 10)


@fault(GRIDS, "An MR image with one voxel of a million", "box_03: MRI: nine tenths of the voxels", ending="warning")
def _(place: Place) -> list[str]:
    def change(array: np.ndarray) -> None:
        array[0, 0, 0] = 1e6

    place.voxels(place.image(3), change)
    return place.check()


@fault(
    LABELS, "A CT image in other units than the others", "box_03: CT: labelled voxels have the median", ending="warning"
)
def _(place: Place) -> list[str]:
    place.describe(channel_names={"0": "CT"})
    place.voxels(place.image(3), lambda array: array + 1024)
    return place.check()


# -- prediction --


def model_of_two_channels(place: Place) -> None:
    """In place of the model; untrained."""
    data = place.root / "two"
    shutil.copytree(place.data, data)
    for path in sorted((data / "imagesTr").iterdir()):
        shutil.copyfile(path, str(path).replace("_0000", "_0001"))
    place.edit(data / "dataset.json", lambda body: body.update(channel_names={"0": "T1", "1": "T2"}))
    shutil.rmtree(place.model)
    make_model(data, place.root / "plan", place.model)


def _images(place: Place, *names: str) -> Path:
    """A folder of images of one channel."""
    folder = place.root / "images"
    folder.mkdir()
    for name in names:
        shutil.copyfile(place.data / "imagesTs" / "box_05_0000.nii.gz", folder / f"{name}.nii.gz")
    return folder


@fault(PREDICT, "Patients NAME_1001 and NAME_1002 for one channel: two label maps", ending="silent")
def _(place: Place) -> list[str]:
    return place.predict(_images(place, "amos_1001", "amos_1002"))


@fault(PREDICT, "The same for two channels", "amos: has the channel files _1001, _1002. Number them _0000", code=2)
def _(place: Place) -> list[str]:
    model_of_two_channels(place)
    return place.predict(_images(place, "amos_1001", "amos_1002"))


@fault(PREDICT, "A channel is missing: the other images are written", "x: has the channel files _0000, _0002.", code=2)
def _(place: Place) -> list[str]:
    model_of_two_channels(place)
    return place.predict(_images(place, "x_0000", "x_0002", "y_0000", "y_0001"))


@fault(PREDICT, "JPEG among the images", "b.jpg: JPEG is not read. Save it as PNG", ending="warning")
def _(place: Place) -> list[str]:
    folder = _images(place, "a")
    (folder / "b.jpg").touch()
    return place.predict(folder)


@fault(PREDICT, "Nothing but DICOM", "there are no images", "1.dcm: DICOM is not read", code=64)
def _(place: Place) -> list[str]:
    folder = _images(place)
    (folder / "1.dcm").touch()
    return place.predict(folder)

"""Faults of the geometry of files: doors that read headers alone, places that are said twice, axes, TIFF's spacing."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from bad_input.faults import FILES, GRIDS, MODELS, PREDICT, fault
from bad_input.place import Place

TEST_IMAGE = "box_05_0000.nii.gz"


def two_places(path: Path) -> None:
    """The sform of an image mirrored in x and moved; its voxels and its qform, which SimpleITK follows then, stay."""
    image = nib.load(path)
    voxels = np.asarray(image.dataobj).copy()
    changed = nib.Nifti1Image(voxels, None, image.header)
    changed.set_qform(image.get_qform(), 1)
    mirrored = image.get_qform()
    mirrored[0, 0] *= -1
    mirrored[:3, 3] += 7, 8, 9
    changed.set_sform(mirrored, 2)
    nib.save(changed, path)


def unplaced(path: Path) -> None:
    image = nib.load(path)
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj).copy(), None, image.header), path)


@fault(GRIDS, "sform and qform of an image differ", "sform and qform place it up to", "counts here", ending="warning")
def _(place: Place) -> list[str]:
    two_places(place.image())
    return place.check()


@fault(
    GRIDS,
    "sform and qform of an image differ: a corrected copy",
    "sform and qform",
    "box_00.nii.gz: has the image's header now",
    ending="warning",
)
def _(place: Place) -> list[str]:
    two_places(place.image())
    return place.check("--fix", str(place.root / "fixed"))


@fault(GRIDS, "A label whose sform and qform differ", "labelsTr/box_00.nii.gz", "sform and qform", ending="warning")
def _(place: Place) -> list[str]:
    two_places(place.label())
    return place.check()


@fault(PREDICT, "An image with neither sform nor qform", "neither sform nor qform", ending="warning")
def _(place: Place) -> list[str]:
    unplaced(place.data / "imagesTs" / TEST_IMAGE)
    return [*place.predict(), "--backend", "torch"]


@fault(PREDICT, "An image whose sform and qform differ", "sform and qform place it up to", ending="warning")
def _(place: Place) -> list[str]:
    two_places(place.data / "imagesTs" / TEST_IMAGE)
    return [*place.predict(), "--backend", "torch"]


@fault(GRIDS, "Images stored along other axes than most", "2 of 5 images", "(PSR, RAI) than most (LPS)", ending="says")
def _(place: Place) -> list[str]:
    for number, code in ((1, "PSR"), (2, "RAI")):
        for path in (place.image(number), place.label(number)):
            sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), code), str(path))
    return place.check()


@fault(PREDICT, "An image stored along other axes than the training's", "1 of 2 images", "box_05", ending="says")
def _(place: Place) -> list[str]:
    path = place.data / "imagesTs" / TEST_IMAGE
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), "PSR"), str(path))
    return [*place.predict(), "--backend", "torch"]


@fault(MODELS, "An orientation that is none", "orientation is three letters")
def _(place: Place) -> list[str]:
    return place.plan(lambda body: body.update(orientation="LRS"))


@fault(PREDICT, "A header that SimpleITK never comes back from, under --max-memory", "place it nowhere", code=2)
def _(place: Place) -> list[str]:
    path = place.data / "imagesTs" / TEST_IMAGE
    place.bytes_at(path, 280, struct.pack("<4f", 0, 0, 0, float("inf")))
    return [*place.predict(), "--max-memory", "4G"]


@fault(PREDICT, "An NRRD header that names another file, under --max-memory", "names another file", code=2)
def _(place: Place) -> list[str]:
    path = place.data / "imagesTs" / "box_07.nrrd"
    sitk.WriteImage(sitk.ReadImage(str(place.data / "imagesTs" / TEST_IMAGE)), str(path))
    path.write_bytes(path.read_bytes().replace(b"encoding:", b"data file: /etc/passwd\nencoding:", 1))
    return [*place.predict(path), "--max-memory", "4G"]


@fault(PREDICT, "Scoring a label map whose header names another file", "names another file")
def _(place: Place) -> list[str]:
    for folder in ("labelsTs", "references"):
        (place.root / folder).mkdir()
        path = place.root / folder / "box_05.nrrd"
        sitk.WriteImage(sitk.ReadImage(str(place.data / "labelsTs" / "box_05.nii.gz")), str(path))
        path.write_bytes(path.read_bytes().replace(b"encoding:", b"data file: /etc/passwd\nencoding:", 1))
    names = [str(place.root / folder) for folder in ("labelsTs", "references")]
    return ["evaluate", *names, "-o", str(place.root / "scores.json"), "--workers", "1"]


@fault(FILES, "A NIfTI-2 file", "SimpleITK does not read, such as NIfTI-2", "Save it as NIfTI-1")
def _(place: Place) -> list[str]:
    image = nib.load(place.image())
    nib.save(nib.Nifti2Image(np.asarray(image.dataobj).copy(), image.affine), place.image())
    return place.check()


@fault(
    PREDICT,
    "Something else where the spacing of a TIFF stack belongs",
    "box_05.json: is there already, and voxfit did not write it",
    code=2,
)
def _(place: Place) -> list[str]:
    image = sitk.ReadImage(str(place.data / "imagesTs" / TEST_IMAGE))
    path = place.root / "in" / "box_05_0000.tif"
    path.parent.mkdir()
    sitk.WriteImage(image, str(path))
    (place.root / "out").mkdir()
    (place.root / "out" / "box_05.json").write_text(json.dumps({"patient": 5}))
    return [*place.predict(path), "--backend", "torch"]

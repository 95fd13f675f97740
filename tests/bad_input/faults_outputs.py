"""Faults that `predict` and `evaluate` meet: outputs in the way of what is there, and images to be doubted."""

from __future__ import annotations

import os
import shutil

import numpy as np

from bad_input.faults import PREDICT, fault
from bad_input.place import Place, run_voxfit


@fault(PREDICT, "Label maps into the folder of the images", "is the folder of the images", code=64)
def _(place: Place) -> list[str]:
    return _into(place, place.data / "imagesTs")


@fault(PREDICT, "The same by a link, with --overwrite", "is the folder of the images", code=64)
def _(place: Place) -> list[str]:
    (place.root / "link").symlink_to(place.data / "imagesTs")
    return [*_into(place, place.root / "link"), "--overwrite"]


@fault(
    PREDICT, "A label map with the name of its image, which is read-only", "alone.nii.gz: is read here", "-o", code=64
)
def _(place: Place) -> list[str]:
    alone = place.data / "alone.nii.gz"
    shutil.copyfile(place.data / "imagesTs" / "box_05_0000.nii.gz", alone)
    alone.chmod(0o444)
    return ["predict", str(place.model), str(alone), "-o", str(place.data), "--overwrite", "--device", "cpu"]


@fault(PREDICT, "A hard link to the image where its label map goes", "is read here and would be replaced", code=64)
def _(place: Place) -> list[str]:
    (place.root / "out").mkdir()
    os.link(place.data / "imagesTs" / "box_05_0000.nii.gz", place.root / "out" / "box_05.nii.gz")
    return [*place.predict(), "--overwrite"]


@fault(
    PREDICT,
    "Label maps over a dataset's labels, with --overwrite",
    "belongs to a dataset and would be replaced",
    code=64,
)
def _(place: Place) -> list[str]:
    shutil.copytree(place.data / "imagesTs", place.root / "images")
    return ["predict", str(place.model), str(place.root / "images"), "-o", str(place.data / "labelsTs"), "--overwrite"]


@fault(PREDICT, "A reference where a label map goes: the others are written", "voxfit did not write it", code=2)
def _(place: Place) -> list[str]:
    (place.root / "out").mkdir()
    shutil.copyfile(place.data / "labelsTs" / "box_05.nii.gz", place.root / "out" / "box_05.nii.gz")
    return place.predict()


@fault(PREDICT, "A label map that was corrected by hand", "was changed after voxfit wrote it", "--overwrite", code=2)
def _(place: Place) -> list[str]:
    assert run_voxfit(place.predict())[0] == 0
    place.voxels(place.root / "out" / "box_05.nii.gz", lambda array: array[::-1].copy(), np.uint8)
    return place.predict()


@fault(
    PREDICT,
    "A folder for label maps that is named like a file",
    "seg.nii.gz: is named like a file",
    "a folder",
    code=64,
)
def _(place: Place) -> list[str]:
    return _into(place, place.root / "seg.nii.gz")


@fault(PREDICT, "An image without contrast", "all voxels of the image are equal", ending="warning")
def _(place: Place) -> list[str]:
    place.voxels(place.data / "imagesTs" / "box_05_0000.nii.gz", lambda array: 0 * array)
    return place.predict()


@fault(PREDICT, "A spacing in metres", "the spacing is 0.001 x 0.0012 x 0.0015 mm, but", "its unit", ending="warning")
def _(place: Place) -> list[str]:
    path = place.data / "imagesTs" / "box_05_0000.nii.gz"
    place.header(path, lambda image: image.SetSpacing((0.0012, 0.001, 0.0015)))
    return place.predict()


@fault(PREDICT, "An image of three voxels an axis", "the image measures 3 x 3.6 x 4.5 mm, but", ending="warning")
def _(place: Place) -> list[str]:
    place.voxels(place.data / "imagesTs" / "box_05_0000.nii.gz", lambda array: array[:3, :3, :3])
    return place.predict()


@fault(PREDICT, "Scores under the name of a table", "x.csv: name the JSON file", "x.json", code=64)
def _(place: Place) -> list[str]:
    return _evaluate(place, "x.csv")


@fault(PREDICT, "Scores over a file that voxfit did not write", "notes.json: is there already", code=64)
def _(place: Place) -> list[str]:
    (place.root / "notes.json").write_text('{"schema": "mine"}')
    return _evaluate(place, "notes.json")


@fault(PREDICT, "Scores whose table would replace another", "patients.csv: is there already", code=64)
def _(place: Place) -> list[str]:
    (place.root / "patients.csv").write_text("name,age\n")
    return _evaluate(place, "patients.json")


@fault(
    PREDICT, "Some references without prediction", "1 of 2 references have no prediction", "box_06", ending="warning"
)
def _(place: Place) -> list[str]:
    shutil.copytree(place.data / "labelsTs", place.root / "predictions")
    (place.root / "predictions" / "box_06.nii.gz").unlink()
    return _evaluate(place, "scores.json", "predictions")


@fault(
    PREDICT,
    "Predictions and references of other names",
    "box_06_0000 have no reference",
    "box_06 have no prediction",
    code=64,
)
def _(place: Place) -> list[str]:
    shutil.copytree(place.data / "labelsTs", place.root / "predictions")
    (place.root / "predictions" / "box_06.nii.gz").rename(place.root / "predictions" / "box_06_0000.nii.gz")
    return _evaluate(place, "scores.json", "predictions")


@fault(
    PREDICT, "A plan under the name of the fingerprint it is made from", "is read here and would be replaced", code=64
)
def _(place: Place) -> list[str]:
    facts = place.root / "run" / "fingerprint.json"
    place.plan(lambda plan: None)
    return ["plan", "--fingerprint", str(facts), "-o", str(facts)]


@fault(
    PREDICT, "A plan under the name of a dataset's description", "belongs to a dataset and would be replaced", code=64
)
def _(place: Place) -> list[str]:
    place.plan(lambda plan: None)
    return ["plan", "--fingerprint", str(place.root / "run" / "fingerprint.json"), "-o", f"{place.data}/dataset.json"]


def _into(place: Place, folder: object) -> list[str]:
    return ["predict", str(place.model), str(place.data / "imagesTs"), "-o", str(folder), "--device", "cpu"]


def _evaluate(place: Place, output: str, predictions: str = "data/labelsTs") -> list[str]:
    names = [str(place.root / predictions), str(place.data / "labelsTs")]
    return ["evaluate", *names, "-o", str(place.root / output), "--workers", "1"]

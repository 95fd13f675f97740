"""A run that is exported: its predictions are its labels, shifted by a voxel."""

import json

import numpy as np
import SimpleITK as sitk

from synthetic import write_boxes
from voxfit.imaging.dataset import Dataset
from voxfit.planning.folds import split
from voxfit.running.reporting import record_dataset

KINDS = {
    "classes": {"labels": {"background": 0, "left": 2, "right": 5}},
    "regions": {"labels": {"background": 0, "both": [2, 5], "right": 5}, "regions_class_order": [2, 5]},
    "sparse": {"labels": {"background": 0, "left": 2, "right": 5, "ignore": 9}},
}


def write_run(folder, kind):
    """Run folder, dataset and folds; the labels of "sparse" lack annotation in two slices."""
    boxes = write_boxes(folder / "boxes")
    body = json.loads((boxes / "dataset.json").read_text()) | KINDS[kind]
    (boxes / "dataset.json").write_text(json.dumps(body))
    dataset, run = Dataset.open(boxes), folder / "run"
    validated = run / "3d" / "cross_validation"
    validated.mkdir(parents=True)
    for case in dataset.cases:
        image = sitk.ReadImage(case.label)
        array = sitk.GetArrayFromImage(image)
        save(np.roll(array, 1, axis=1), image, validated / f"{case.name}.nii.gz")
        if kind == "sparse":
            array[2:4] = 9
            save(array, image, case.label)
    record_dataset(dataset, run / "dataset.json")
    folds = split(dataset.cases, 2, 0)
    folds.save(run / "folds.json")
    (validated / "scores.json").write_text("{}")
    return run, dataset, folds


def save(array, like, path):
    """On the same grid."""
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(like)
    sitk.WriteImage(image, str(path))


def labels_of(dataset):
    """All label maps, flat, for a digest."""
    return np.concatenate([sitk.GetArrayFromImage(sitk.ReadImage(case.label)).ravel() for case in dataset.cases])

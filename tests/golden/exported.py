"""A run that is exported: its predictions are its labels, shifted by a voxel."""

import json

import numpy as np
import SimpleITK as sitk

from synthetic import write_boxes
from voxfit.core.layout import Layout
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
    layout, folds = Layout(run), split(dataset.cases, 2, 0)
    fold_of = {name: fold for fold, part in enumerate(folds.validation) for name in part}
    for case in dataset.cases:
        path = layout.validation("3d", fold_of[case.name]).label(case.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        image = sitk.ReadImage(case.label)
        array = sitk.GetArrayFromImage(image)
        save(np.roll(array, 1, axis=1), image, path)
        if kind == "sparse":
            array[2:4] = 9
            save(array, image, case.label)
    record_dataset(dataset, run / "dataset.json")
    folds.save(layout.folds)
    layout.scores("3d").write_text("{}")
    return run, dataset, folds


def save(array, like, path):
    """On the same grid."""
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(like)
    sitk.WriteImage(image, str(path))


def labels_of(dataset):
    """All label maps, flat, for a digest."""
    return np.concatenate([sitk.GetArrayFromImage(sitk.ReadImage(case.label)).ravel() for case in dataset.cases])

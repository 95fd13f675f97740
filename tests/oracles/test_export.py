"""An exported run in the hands of nnU-Net itself: it verifies the dataset, and scores our predictions as we do."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("nnunetv2")

from synthetic import write_boxes
from voxfit.assessment.evaluation import evaluate_files
from voxfit.imaging.dataset import Dataset
from voxfit.interop.nnunet_export import export_nnunet
from voxfit.planning.folds import split
from voxfit.running.reporting import record_dataset

KINDS = {
    "classes": {"labels": {"background": 0, "left": 2, "right": 5}},
    "regions": {"labels": {"background": 0, "both": [2, 5], "right": 5}, "regions_class_order": [2, 5]},
    "sparse": {"labels": {"background": 0, "left": 2, "right": 5, "ignore": 9}},
}


@pytest.fixture(params=KINDS)
def run(request, tmp_path):
    """A run whose predictions are its labels, shifted by a voxel; the sparse labels lack annotation in two slices."""
    boxes = write_boxes(tmp_path / "boxes")
    body = json.loads((boxes / "dataset.json").read_text()) | KINDS[request.param]
    (boxes / "dataset.json").write_text(json.dumps(body))
    dataset, folder = Dataset.open(boxes), tmp_path / "run"
    validated = folder / "3d" / "cross_validation"
    validated.mkdir(parents=True)
    for case in dataset.cases:
        image = sitk.ReadImage(case.label)
        array = sitk.GetArrayFromImage(image)
        save(np.roll(array, 1, axis=1), image, validated / f"{case.name}.nii.gz")
        if request.param == "sparse":
            array[2:4] = 9
            save(array, image, case.label)
    record_dataset(dataset, folder / "dataset.json")
    folds = split(dataset.cases, 2, 0)
    folds.save(folder / "folds.json")
    (validated / "scores.json").write_text("{}")
    return folder, dataset, folds


def save(array, like, path):
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(like)
    sitk.WriteImage(image, str(path))


@pytest.mark.filterwarnings("ignore")
def test_nnunet_verifies_and_evaluates_it_as_we_do(run, tmp_path):
    for name in ("raw", "preprocessed", "results"):
        os.environ.setdefault(f"nnUNet_{name}", str(tmp_path))
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder2
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    folder, dataset, folds = run
    raw = export_nnunet(folder, tmp_path / "out")
    verify_dataset_integrity(str(raw), 1)
    results = tmp_path / "out" / "nnUNet_results" / raw.name / "voxfit__nnUNetPlans__3d_fullres"
    for fold, names in enumerate(folds.validation):
        reference = tmp_path / f"reference_{fold}"
        reference.mkdir()
        for name in names:
            shutil.copy(raw / "labelsTr" / f"{name}.nii.gz", reference)
        summary = tmp_path / f"summary_{fold}.json"
        compute_metrics_on_folder2(
            str(reference),
            str(results / f"fold_{fold}" / "validation"),
            str(results / "dataset.json"),
            str(results / "plans.json"),
            str(summary),
            num_processes=1,
        )
        theirs = json.loads(summary.read_text())
        pairs = {
            case.name: (folder / "3d" / "cross_validation" / f"{case.name}.nii.gz", Path(case.label))
            for case in dataset.cases
            if case.name in names
        }
        ours = evaluate_files(pairs, dataset.labels, workers=1)
        means = [item["Dice"] for item in theirs["mean"].values()]
        assert means == pytest.approx([item.dice for item in ours.mean.labels.values()])

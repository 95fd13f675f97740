"""An exported run in the hands of nnU-Net itself: it verifies the dataset, and scores our predictions as we do."""

import json
import os
import shutil
from pathlib import Path

import pytest

pytest.importorskip("nnunetv2")

from golden.exported import KINDS, labels_of, write_run
from golden.files import Recorder
from voxfit.assessment.evaluation import evaluate_files
from voxfit.core.layout import Layout
from voxfit.core.parallel import LocalExecutor
from voxfit.interop.nnunet_export import export_nnunet


@pytest.mark.filterwarnings("ignore")
def test_nnunet_verifies_and_evaluates_it_as_we_do(tmp_path):
    for name in ("raw", "preprocessed", "results"):
        os.environ.setdefault(f"nnUNet_{name}", str(tmp_path))
    golden = Recorder()
    for kind in KINDS:
        folder, dataset, folds = write_run(tmp_path / kind, kind)
        means = []
        for names, theirs in zip(folds.validation, nnunet_scores(folder, folds, tmp_path / kind), strict=True):
            pairs = {
                case.name: (Layout(folder).segmentations("3d")[case.name], Path(case.label))
                for case in dataset.cases
                if case.name in names
            }
            ours = evaluate_files(pairs, dataset.labels, executor=LocalExecutor(1))
            assert theirs == pytest.approx([item.dice for item in ours.mean.labels.values()])
            means.append(theirs)
        golden.record(kind, means, labels_of(dataset))
    golden.write("exported")


def nnunet_scores(folder, folds, place):
    """The mean Dice of each label or region in each fold, by nnU-Net from what we exported."""
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder2
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    raw = export_nnunet(folder, place / "out")
    verify_dataset_integrity(str(raw), 1)
    results = place / "out" / "nnUNet_results" / raw.name / "voxfit__nnUNetPlans__3d_fullres"
    for fold, names in enumerate(folds.validation):
        reference = place / f"reference_{fold}"
        reference.mkdir()
        for name in names:
            shutil.copy(raw / "labelsTr" / f"{name}.nii.gz", reference)
        summary = place / f"summary_{fold}.json"
        compute_metrics_on_folder2(
            str(reference),
            str(results / f"fold_{fold}" / "validation"),
            str(results / "dataset.json"),
            str(results / "plans.json"),
            str(summary),
            num_processes=1,
        )
        yield [item["Dice"] for item in json.loads(summary.read_text())["mean"].values()]

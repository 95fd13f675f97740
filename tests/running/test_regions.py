"""Regions and missing annotation, from dataset.json to scores."""

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

import voxfit
from voxfit.assessment.scores import Scores
from voxfit.core.layout import Layout
from voxfit.planning.plan import Limits, Plan
from voxfit.planning.recipes import Recipe

LIMITS = Limits(voxel_budget=16**3, plane_voxels=2048, base_features=4, cascade_factor=100)
LABELS = {"background": 0, "both": [2, 5], "right": 5, "ignore": 9}


@pytest.fixture(scope="module")
def dataset(boxes, tmp_path_factory):
    """The boxes as regions; two slices of each case are not annotated."""
    folder = tmp_path_factory.mktemp("regions") / "boxes"
    shutil.copytree(boxes, folder)
    body = json.loads((folder / "dataset.json").read_text())
    body |= {"labels": LABELS, "regions_class_order": [2, 5]}
    (folder / "dataset.json").write_text(json.dumps(body))
    for path in (folder / "labelsTr").iterdir():
        image = sitk.ReadImage(str(path))
        array = sitk.GetArrayFromImage(image)
        array[2:4] = 9
        changed = sitk.GetImageFromArray(array)
        changed.CopyInformation(image)
        sitk.WriteImage(changed, str(path))
    return folder


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    recipe = Recipe(folds=3, steps_per_epoch=25, validation_steps=2)
    request = voxfit.FitRequest(
        dataset,
        run,
        configurations=("2d", "3d"),
        folds=(0,),
        epochs=10,
        limits=LIMITS,
        recipe=recipe,
        device="cpu",
        workers=1,
    )
    return run, voxfit.fit(request)


def test_regions_are_learned_and_scored(finished):
    run, result = finished
    plan = Plan.load(run / "plan.json")
    assert plan.topology("3d").out_channels == 2
    assert plan.single_component_labels == ()
    scores = Scores.load(run / "3d" / "cross_validation" / "scores.json")
    assert scores.labels == ("both", "right")
    assert result.selection.winner().foreground_dice > 0.5
    history = [json.loads(line) for line in (run / "3d" / "fold_0" / "history.jsonl").read_text().splitlines()]
    assert all(len(epoch["validation_dice"]) == 2 for epoch in history)
    assert "both" in (run / "report.html").read_text()


def test_scores_leave_out_what_nobody_annotated(finished, dataset):
    """Against NumPy on the files."""
    run, _ = finished
    scores = Scores.load(run / "3d" / "cross_validation" / "scores.json")
    for case in scores.cases:
        reference, predicted = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
            for path in (
                dataset / "labelsTr" / f"{case.name}.nii.gz",
                Layout(run).segmentations("3d")[case.name],
            )
        )
        known = reference != 9
        for name, values in (("both", (2, 5)), ("right", (5,))):
            wanted, found = np.isin(reference, values) & known, np.isin(predicted, values) & known
            assert case.labels[name].dice == pytest.approx(2 * (wanted & found).sum() / (wanted.sum() + found.sum()))


def test_predictions_hold_the_values_that_are_pasted(finished, dataset, tmp_path):
    run, _ = finished
    image = sitk.ReadImage(str(next((dataset / "imagesTs").iterdir())))
    label = sitk.GetArrayFromImage(voxfit.Model.open(run, "cpu").predict(image))
    assert set(np.unique(label)) <= {0, 2, 5}
    assert (label == 2).any()
    assert (label == 5).any()

"""What cross-validation says of a case is what the network of its fold says of it, and that has not seen the case."""

import numpy as np
import pytest
import SimpleITK as sitk

import voxfit
from builders.steps import begin
from voxfit.assessment.evaluation import evaluate
from voxfit.assessment.scores import Scores
from voxfit.core.layout import Layout
from voxfit.imaging.dataset import Dataset
from voxfit.inference.model import Model
from voxfit.inference.model_json import ModelDescription
from voxfit.planning.folds import Folds
from voxfit.planning.plan import Limits
from voxfit.planning.recipes import Recipe
from voxfit.running.trainings import training_task


@pytest.fixture(scope="module")
def request_of_two(boxes, tmp_path_factory):
    return voxfit.FitRequest(
        boxes,
        tmp_path_factory.mktemp("run"),
        configurations=("3d",),
        epochs=2,
        recipe=Recipe(folds=2, steps_per_epoch=10, validation_steps=1),
        limits=Limits(voxel_budget=16**3, base_features=4, cascade_factor=100),
        device="cpu",
        workers=1,
    )


@pytest.fixture(scope="module")
def finished(request_of_two):
    return request_of_two.run, voxfit.fit(request_of_two)


def model_of(result, fold, **options):
    """The model with the network of one fold, by PyTorch."""
    description = ModelDescription.load(result.model / "model.json")
    member = description.members[0]
    only = member.only([file for file in member.weights if f"_fold_{fold}." in file])
    assert len(only.weights) == 1
    return Model(result.model, description.model_copy(update={"members": (only,)}), "cpu", **options)


def voxels(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_no_fold_is_trained_on_what_it_is_scored_on(request_of_two, finished):
    made = begin(request_of_two)
    experiment, names = made.settle(), {case.name for case in made.dataset.cases}
    validated = []
    for fold in (0, 1):
        task = training_task(experiment, "3d", fold)
        assert not set(task.training_cases) & set(task.validation_cases)
        assert {*task.training_cases, *task.validation_cases} == names
        validated += task.validation_cases
    assert sorted(validated) == sorted(names)


def test_each_case_is_segmented_by_the_network_of_its_fold(finished, boxes):
    run, result = finished
    differs = 0
    for fold, names in enumerate(Folds.load(run / "folds.json").validation):
        own, other = model_of(result, fold), model_of(result, 1 - fold)
        for name in names:
            image = sitk.ReadImage(str(boxes / "imagesTr" / f"{name}_0000.nii.gz"))
            found = voxels(Layout(run).validation("3d", fold).label(name))
            assert np.array_equal(sitk.GetArrayFromImage(own.predict(image)), found), (fold, name)
            differs += not np.array_equal(sitk.GetArrayFromImage(other.predict(image)), found)
    assert differs  # or the test could not tell them apart


def test_the_cost_of_speed_is_that_of_looking_once(finished, boxes, tmp_path):
    run, result = finished
    usual = tmp_path / "usual"
    for fold, names in enumerate(Folds.load(run / "folds.json").validation):
        plain, mirrored = model_of(result, fold, mirror=False), model_of(result, fold)
        for name in names:
            image = sitk.ReadImage(str(boxes / "imagesTr" / f"{name}_0000.nii.gz"))
            for folder, model in ((tmp_path / "plain", plain), (usual, mirrored)):
                folder.mkdir(exist_ok=True)
                sitk.WriteImage(model.predict(image), str(folder / f"{name}.nii.gz"))
    labels = Dataset.open(boxes).labels
    dice = {
        folder.name: evaluate(folder, boxes / "labelsTr", labels=labels, workers=1).mean.foreground_dice
        for folder in (tmp_path / "plain", usual)
    }
    assert dice["plain"] != dice["usual"]  # or the test could not tell them apart
    assert Scores.load(run / "3d/cross_validation/scores_without_tta.json").mean.foreground_dice == pytest.approx(
        dice["plain"]
    )
    assert Scores.load(run / "3d/cross_validation/scores.json").mean.foreground_dice == pytest.approx(dice["usual"])
    fast = ModelDescription.load(result.model / "model.json").fast
    assert fast.cross_validated_dice == pytest.approx(dice["plain"])


def test_the_model_holds_the_networks_of_all_folds(finished):
    run, result = finished
    for fold in (0, 1):
        trained = (run / "3d" / f"fold_{fold}" / "weights.safetensors").read_bytes()
        assert (result.model / "weights" / f"3d_fold_{fold}.safetensors").read_bytes() == trained

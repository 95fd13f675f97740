"""The cascade end to end, on a plan whose limits make small volumes large."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from test_fit import one_network

import voxfit
from voxfit.assessment.selection import Selection
from voxfit.core.errors import UsageError
from voxfit.core.layout import Layout
from voxfit.imaging.geometry import Box
from voxfit.inference.cascade import upsampled
from voxfit.inference.model_json import ModelDescription
from voxfit.inference.predictor import NetworkInput
from voxfit.planning.folds import Folds
from voxfit.planning.plan import Limits, Plan
from voxfit.planning.recipes import Recipe
from voxfit.preprocessing.output_resampling import Computed
from voxfit.preprocessing.store import Store

LIMITS = Limits(voxel_budget=8**3, plane_voxels=512, base_features=4, cascade_factor=2)


@pytest.fixture(scope="module")
def finished(boxes, tmp_path_factory):
    run = tmp_path_factory.mktemp("cascade")
    request = voxfit.FitRequest(
        boxes,
        run,
        configurations=("3d_cascade",),
        folds=(0,),
        epochs=5,
        recipe=Recipe(folds=2, steps_per_epoch=40, validation_steps=2),
        limits=LIMITS,
        device="cpu",
        workers=1,
    )
    return run, voxfit.fit(request)


def test_the_first_stage_is_trained_on_every_fold(finished):
    run, result = finished
    assert len(list(run.glob("3d_lowres/fold_*/weights.safetensors"))) == 2
    assert len(list(run.glob("3d_cascade/fold_*/weights.safetensors"))) == 1
    assert [candidate.name for candidate in result.selection.candidates] == ["3d_lowres", "3d_cascade"]
    assert result.selection == Selection.load(run / "selection.json")
    assert result.selection.chosen == "3d_cascade"


def test_a_split_without_every_case_is_refused_before_training(own_boxes, tmp_path):
    names = [f"box_{number:02}" for number in range(6)]
    folds = [{"train": names[2:], "val": names[:2]}, {"train": names[:2], "val": names[2:5]}]
    (own_boxes / "splits_final.json").write_text(json.dumps(folds))
    run = tmp_path / "run"
    request = voxfit.FitRequest(own_boxes, run, epochs=1, limits=LIMITS, device="cpu", workers=1)
    with pytest.raises(UsageError, match="box_05 in no fold, but a cascade needs"):
        voxfit.fit(request)
    assert not list(run.rglob("history.jsonl"))


def test_its_input_is_out_of_fold_on_the_fine_grid(finished, tmp_path):
    """Mirrored predictions of the first stage's network that has not seen the case, and not of the other."""
    run, _ = finished
    plan = Plan.load(run / "plan.json")
    coarse, fine = (Store(run / "store" / plan.grid(name).folder) for name in ("3d_lowres", "3d_cascade"))
    predictors = [
        one_network(run, "3d_lowres", fold, tmp_path / f"fold_{fold}").predictors["3d_lowres"] for fold in (0, 1)
    ]
    assert all(len(predictor.flips) > 1 for predictor in predictors)
    different = 0
    for fold, cases in enumerate(Folds.load(run / "folds.json").validation):
        for case in cases:
            stored = np.load(Layout(run).validation("3d_lowres", fold).cascade_input(case))
            own, other = (
                upsampled(
                    Computed(predictors[number].predict(NetworkInput(np.asarray(coarse.image(case))))),
                    fine.label(case).shape,
                    plan,
                    "3d_cascade",
                )
                for number in (fold, 1 - fold)
            )
            assert np.array_equal(stored, own)
            different += not np.array_equal(stored, other)
    assert different


def test_the_model_holds_both_stages_and_predicts(finished, boxes):
    run, result = finished
    description = ModelDescription.load(result.model / "model.json")
    assert [stage.configuration for stage in description.stages] == ["3d_lowres"]
    assert len(description.stages[0].weights) == 2
    image = sitk.ReadImage(str(boxes / "imagesTs" / "box_06_0000.nii.gz"))
    label = voxfit.Model.open(run, "cpu").predict(image)
    assert label.GetSize() == image.GetSize()
    reference = sitk.GetArrayFromImage(sitk.ReadImage(str(boxes / "labelsTs" / "box_06.nii.gz")))
    predicted = sitk.GetArrayFromImage(label)
    # Trained for seconds; better than chance says that both stages are wired up.
    overlap = 2 * ((reference > 0) & (predicted > 0)).sum() / ((reference > 0).sum() + (predicted > 0).sum())
    assert overlap > 0.2


def test_one_hot_channels_follow_the_image():
    segmentation = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.int16)
    image = np.random.default_rng(1).normal(size=(2, 4, 5, 6)).astype(np.float32)
    joined = NetworkInput(image, segmentation, 2).tile(Box.whole((4, 5, 6)))
    assert joined.shape == (4, 4, 5, 6)
    assert np.array_equal(joined[:2], image)
    assert np.array_equal(joined[2:].argmax(axis=0) + 1, np.where(segmentation == 0, 1, segmentation))
    assert np.array_equal(joined[2:].sum(axis=0), segmentation > 0)
    beyond = NetworkInput(image, segmentation, 2).tile(Box((-1, 0, 0), (3, 5, 9)))
    assert np.array_equal(beyond[:, 1:, :, :6], joined[:, :3])
    assert not beyond[:, 0].any()
    assert not beyond[..., 6:].any()


@pytest.mark.parametrize("ratio", [3.0, None])
def test_the_coarse_axis_is_handed_over_by_nearest_neighbour(finished, ratio):
    """The first of the two grids that has a coarse axis decides: here y of the first stage, not z of the second."""
    run, _ = finished
    plan = Plan.load(run / "plan.json")
    spacings = {"3d_lowres": (4.0, 16.0, 4.0), "3d_cascade": (8.0, 2.0, 2.0)}
    changed = {
        name: configuration.model_copy(update={"spacing": spacings.get(name, configuration.spacing)})
        for name, configuration in plan.configurations.items()
    }
    preparation = plan.preparation.model_copy(update={"coarse_axis_ratio": ratio})
    plan = plan.model_copy(update={"configurations": changed, "preparation": preparation})
    outputs = np.random.default_rng(0).random((3, 8, 2, 6)).astype(np.float32)
    fine = upsampled(Computed(outputs), (4, 16, 12), plan, "3d_cascade")
    blocks = fine.reshape(4, 2, 8, 12)
    assert (blocks == blocks[:, :, :1]).all() == (ratio is not None)


def test_upsampling_a_segmentation_keeps_its_middle(finished):
    run, _ = finished
    coarse = np.zeros((3, 4, 4, 4), np.float32)
    coarse[1, 1:3, 1:3, 1:3] = 1
    coarse[0] = 1 - coarse[1]
    fine = upsampled(Computed(coarse), (8, 8, 8), Plan.load(run / "plan.json"), "3d_cascade")
    assert fine[3:5, 3:5, 3:5].all()
    assert not fine[0].any()
    assert 0.5 < fine.sum() / 64 < 1.5

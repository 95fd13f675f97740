"""The INT8 form of a run's model: what it costs is measured out of fold, and it is used only where that is little."""

import shutil

import numpy as np
import pytest
import safetensors.torch
import SimpleITK as sitk

import voxfit
from voxfit.core.errors import ModelError, UsageError
from voxfit.inference.int8_json import Quantization
from voxfit.inference.model import Model
from voxfit.planning.folds import Folds
from voxfit.planning.plan import Limits
from voxfit.planning.recipes import Recipe
from voxfit.running.quantization import quantize


@pytest.fixture(scope="module")
def fitted(boxes, tmp_path_factory):
    run = tmp_path_factory.mktemp("quantized")
    request = voxfit.FitRequest(
        boxes,
        run,
        configurations=("3d",),
        folds=(0, 1),
        epochs=3,
        recipe=Recipe(folds=2, steps_per_epoch=20, validation_steps=1),
        limits=Limits(voxel_budget=16**3, plane_voxels=2048, base_features=4, cascade_factor=100),
        device="cpu",
        workers=1,
    )
    result = voxfit.fit(request)
    with pytest.raises(ModelError, match=r"has no INT8 form yet\. Make it with `voxfit quantize"):
        Model.open(run, "cpu", precision="int8")
    return run, result, quantize(run, tiles=8)


def image_of(boxes):
    return sitk.ReadImage(str(boxes / "imagesTs" / "box_06_0000.nii.gz"))


def test_float32_scores_what_cross_validation_scored(fitted):
    """The same cases, by the networks that have not seen them: the path of `voxfit predict` against that of `fit`."""
    _, result, made = fitted
    chosen = result.selection.winner()
    assert made.dice.out_of_fold
    assert made.dice.cases == chosen.cases == 6
    assert made.dice.float32 == pytest.approx(chosen.foreground_dice, abs=1e-9)
    assert made.dice.float32_labels == pytest.approx(chosen.label_dice, abs=1e-9)


def test_int8_segments_nearly_the_same_wherever_the_model_lies(fitted, boxes, tmp_path):
    run, result, made = fitted
    assert made == Quantization.load(result.model / "int8.json")
    shutil.copytree(result.model, tmp_path / "elsewhere")
    image = image_of(boxes)
    exact = sitk.GetArrayFromImage(Model.open(run, "cpu", backend="torch").predict(image))
    found = sitk.GetArrayFromImage(
        Model.open(tmp_path / "elsewhere", "cpu", precision="int8", accept_loss=True).predict(image)
    )
    assert exact.any()
    assert np.mean(exact == found) > 0.98


def test_a_loss_of_two_thousandths_is_refused(fitted, tmp_path):
    _, result, made = fitted
    folder = tmp_path / "model"
    shutil.copytree(result.model, folder)

    def with_dice(float32, int8):
        dice = made.dice.model_copy(update={"float32": float32, "int8": int8})
        made.model_copy(update={"dice": dice}).save(folder / "int8.json")

    with_dice(0.9, 0.897)
    with pytest.raises(UsageError, match=r"loses is 0.0030 \(0.9000 to 0.8970\) on 6 cases.*--accept-loss"):
        Model.open(folder, "cpu", precision="int8")
    Model.open(folder, "cpu", precision="int8", accept_loss=True)
    with_dice(None, None)
    with pytest.raises(UsageError, match="loses is unknown"):
        Model.open(folder, "cpu", precision="int8")
    with_dice(0.9, 0.899)
    Model.open(folder, "cpu", precision="int8")


def test_other_weights_are_refused(fitted, tmp_path):
    _, result, made = fitted
    folder = tmp_path / "model"
    shutil.copytree(result.model, folder)
    path = folder / made.networks[1].weights
    weights = safetensors.torch.load_file(path)
    weights["head.bias"] += 1
    path.write_bytes(safetensors.torch.save(weights))
    with pytest.raises(ModelError, match=r"was made for other weights than weights/3d_fold_1\.safetensors"):
        Model.open(folder, "cpu", precision="int8", accept_loss=True)


def test_a_model_without_a_run_needs_a_dataset(fitted, boxes, tmp_path):
    _, result, _ = fitted
    folder = tmp_path / "model"
    shutil.copytree(result.model, folder)
    (folder / "int8.json").unlink()
    with pytest.raises(UsageError, match="name labelled cases too"):
        quantize(folder)
    made = quantize(folder, boxes, tiles=4)
    assert not made.dice.out_of_fold
    assert made.dice.cases == 6
    assert {network.weights for network in made.networks} == {f"weights/3d_fold_{fold}.safetensors" for fold in (0, 1)}


def test_int8_by_another_backend_is_refused(fitted):
    run, _, _ = fitted
    with pytest.raises(UsageError, match="only openvino computes with 8 bits"):
        Model.open(run, "cpu", precision="int8", backend="torch")


def test_a_fold_is_calibrated_on_its_training_cases_alone(fitted, boxes, tmp_path):
    """What its validation cases hold moves no range of it; the other fold was trained on them, and its ranges move."""
    run, _, made = fitted
    shutil.copytree(run, tmp_path / "run")
    shutil.copytree(boxes, tmp_path / "boxes")
    for case in Folds.load(run / "folds.json").validation[0]:
        path = tmp_path / "boxes" / "imagesTr" / f"{case}_0000.nii.gz"
        image = sitk.ReadImage(str(path))
        image[0, 0, 0] = 1e6  # normalised to zero mean and unit variance: one voxel far outside
        sitk.WriteImage(image, str(path))
    changed = quantize(tmp_path / "run", tmp_path / "boxes", tiles=8)
    before, after = ({network.weights: network.ranges for network in each.networks} for each in (made, changed))
    first, second = (f"weights/3d_fold_{fold}.safetensors" for fold in (0, 1))
    assert after[first] == before[first]
    assert after[second] != before[second]

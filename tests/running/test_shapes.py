"""Unusual images through the whole method: pictures, single slices, volumes smaller than a patch, several channels."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

import voxfit
from synthetic import write_boxes
from voxfit.core.progress import Listener
from voxfit.imaging.dataset import Dataset
from voxfit.inference.model import Model
from voxfit.planning.plan import Limits, Plan
from voxfit.planning.recipes import Recipe, recipe_named
from voxfit.running.prediction import find_cases, predict_cases
from voxfit.running.preparation import prepare_only

LIMITS = Limits(base_features=4, voxel_budget=16**3, plane_voxels=4096, cascade_factor=100)
RECIPE = Recipe(folds=2, steps_per_epoch=3, validation_steps=1)


def fit(folder, run, **changes):
    fields = {"folds": (0,), "epochs": 1, "limits": LIMITS, "recipe": RECIPE, "device": "cpu", "workers": 1}
    return voxfit.fit(voxfit.FitRequest(folder, run, **(fields | changes)))


def write_dataset(folder, arrays, ending=".nii.gz", channels=("MRI",), as_vector=False):
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for number, array in enumerate(arrays):
        spatial = array.shape[:-1] if as_vector else array.shape
        label = np.zeros(spatial, np.uint8)
        label[tuple(slice(0, max(size // 2, 1)) for size in spatial)] = 1
        image = sitk.GetImageFromArray(array, isVector=as_vector)
        sitk.WriteImage(image, str(folder / "imagesTr" / f"x_{number}_0000{ending}"))
        sitk.WriteImage(sitk.GetImageFromArray(label), str(folder / "labelsTr" / f"x_{number}{ending}"))
    body = {
        "channel_names": {str(index): name for index, name in enumerate(channels)},
        "labels": {"background": 0, "thing": 1},
        "file_ending": ending,
    }
    (folder / "dataset.json").write_text(json.dumps(body))
    return folder


@pytest.mark.parametrize("as_vector", [False, True], ids=["grey", "RGB"])
def test_pictures_have_one_network_and_come_back_as_pictures(tmp_path, as_vector):
    rng = np.random.default_rng(0)
    shape = (40, 33, 3) if as_vector else (40, 33)
    arrays = [rng.integers(1, 255, shape).astype(np.uint8) for _ in range(4)]
    names = ("R", "G", "B") if as_vector else ("EM",)
    data = write_dataset(tmp_path / "data", arrays, ".png", names, as_vector)
    result = fit(data, tmp_path / "run")
    assert list(Plan.load(tmp_path / "run" / "plan.json").configurations) == ["2d"]
    assert result.selection.chosen == "2d"
    model = Model.open(tmp_path / "run", "cpu")
    cases = find_cases([data / "imagesTr"], 1)
    assert predict_cases(model, cases, tmp_path / "out", Listener()).problems == []
    for case in cases:
        written = sitk.ReadImage(str(tmp_path / "out" / f"{case.name}.png"))
        assert written.GetSize() == (33, 40)
        assert set(np.unique(sitk.GetArrayFromImage(written))) <= {0, 1}


@pytest.mark.parametrize("shape", [(1, 20, 18), (3, 5, 4), (12, 1, 12)], ids=str)
def test_single_slices_and_tiny_volumes(tmp_path, shape):
    rng = np.random.default_rng(0)
    data = write_dataset(tmp_path / "data", [rng.random(shape).astype(np.float32) + 1 for _ in range(4)])
    result = fit(data, tmp_path / "run")
    assert [candidate.cases for candidate in result.selection.candidates] == [2] * len(result.selection.candidates)
    image = sitk.ReadImage(str(data / "imagesTr" / "x_0_0000.nii.gz"))
    assert Model.open(tmp_path / "run", "cpu").predict(image).GetSize() == image.GetSize()


def test_all_zero_images_are_kept_and_named(tmp_path):
    class Ear(Listener):
        heard = ""

        def warn(self, text):
            self.heard += text

    arrays = [np.random.default_rng(number).random((10, 11, 12)).astype(np.float32) for number in range(4)]
    arrays[1][:] = 0
    data = write_dataset(tmp_path / "data", arrays)
    ear = Ear()
    voxfit.fit(
        voxfit.FitRequest(
            data,
            tmp_path / "run",
            configurations=("3d",),
            folds=(0,),
            epochs=1,
            limits=LIMITS,
            recipe=RECIPE,
            device="cpu",
        ),
        ear,
    )
    assert "x_1: all voxels of the image are equal" in ear.heard


def test_channels_in_files_of_their_own(tmp_path):
    data = write_boxes(tmp_path / "data", cases=4, channels=2)
    fit(data, tmp_path / "run", configurations=("3d",))
    model = Model.open(tmp_path / "run", "cpu")
    cases = find_cases([data / "imagesTs"], 2)
    assert [len(case.images) for case in cases] == [2, 2]
    assert predict_cases(model, cases, tmp_path / "out", Listener()).problems == []
    with pytest.raises(voxfit.VoxfitError, match="has 1 channel, but the model was trained on 2 channels"):
        model.predict_case(cases[0].model_copy(update={"images": cases[0].images[:1]}))


def test_groups_never_stand_on_both_sides(tmp_path):
    data = write_boxes(tmp_path / "data", cases=6)
    dataset = Dataset.open(data, r"box_0(\d)")
    assert {case.group for case in dataset.cases} == set("012345")
    pairs = {f"box_{number:02}": f"patient{number // 2}" for number in range(6)}
    body = json.loads((data / "dataset.json").read_text()) | {"groups": pairs}
    (data / "dataset.json").write_text(json.dumps(body))
    fit(data, tmp_path / "run", configurations=("3d",))
    folds = json.loads((tmp_path / "run" / "folds.json").read_text())["validation"]
    for fold in folds:
        inside = {pairs[name] for name in fold}
        outside = {pairs[name] for other in folds if other is not fold for name in other}
        assert not inside & outside


@pytest.mark.parametrize("recipe", ["nnunet-v2", "nnunet-v2-resenc-m"])
def test_the_recipes_of_nnunet_run_to_their_end(boxes, tmp_path, recipe):
    """Their 2D and 3D models have grids of their own, so their ensemble is made on the image's grid."""
    settings = recipe_named(recipe).model_copy(update={"folds": 2, "steps_per_epoch": 2, "validation_steps": 1})
    request = voxfit.FitRequest(boxes, tmp_path, folds=(0,), recipe=settings, epochs=1, device="cpu", workers=1)
    made = prepare_only(request, Listener(), stores=False)
    small = {
        name: item.with_width(4).model_copy(update={"batch_size": 2}) for name, item in made.configurations.items()
    }
    made.revised(configurations=small).save(tmp_path / "plan.json")
    result = voxfit.fit(request)
    assert [candidate.name for candidate in result.selection.candidates] == ["2d", "3d", "2d+3d"]
    assert (tmp_path / "store" / made.grid("2d").folder).is_dir()
    assert made.grid("2d").folder.startswith("any")
    image = sitk.ReadImage(str(next((boxes / "imagesTs").iterdir())))
    assert voxfit.Model.open(tmp_path, "cpu").predict(image).GetSize() == image.GetSize()

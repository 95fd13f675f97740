"""Images that are stored along other axes than most: prepared and segmented as if SimpleITK had turned them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from bad_input.place import make_model, run_voxfit
from builders.steps import begin
from voxfit.core.layout import Layout
from voxfit.core.parallel import LocalExecutor
from voxfit.core.progress import Listener
from voxfit.imaging.dataset import Dataset
from voxfit.inference.model import Model
from voxfit.inference.model_json import ModelDescription
from voxfit.planning.fingerprint import Fingerprint
from voxfit.planning.grid import Grid, ZScore
from voxfit.planning.plan import Limits, Plan
from voxfit.planning.planners import plan_by
from voxfit.running.cases import digest_of_files, measure_dataset
from voxfit.running.prediction import find_cases, predict_cases
from voxfit.running.request import FitRequest

OTHER = {1: "PSR", 3: "RAI"}
"""Cases of the six that are stored otherwise, and how."""


class Ear(Listener):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.warned.append(text)


@pytest.fixture(scope="module")
def mixed(boxes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of boxes, two of its cases written along other axes by SimpleITK."""
    folder = tmp_path_factory.mktemp("mixed") / "boxes"
    shutil.copytree(boxes, folder)
    for number, code in OTHER.items():
        for path in (*folder.glob(f"imagesTr/box_{number:02}_*"), folder / "labelsTr" / f"box_{number:02}.nii.gz"):
            sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), code), str(path))
    return folder


@pytest.fixture(scope="module")
def model(boxes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_model(boxes, folder / "plan", folder / "model")
    return folder / "model"


def request(dataset: Path, run: Path) -> FitRequest:
    return FitRequest(dataset, run, limits=Limits(voxel_budget=4096, plane_voxels=2048, base_features=4), workers=1)


def test_a_dataset_is_measured_and_prepared_as_one_along_the_same_axes(
    boxes: Path, mixed: Path, tmp_path: Path
) -> None:
    ear = Ear()
    runs = [begin(request(boxes, tmp_path / "plain")), begin(request(mixed, tmp_path / "mixed"), ear)]
    plain, turned = (run.fingerprint for run in runs)
    assert plain.orientation == "LPS", "SimpleITK's identity"
    assert turned.facts_digest() == plain.facts_digest()
    assert ear.said[0].startswith(
        "2 of 6 images are stored along other axes (PSR, RAI) than most (LPS): box_01, box_03. They are turned"
    )
    assert runs[0].plan.digest() == runs[1].plan.digest()
    stores = [run.store("3d") for run in runs]
    for number in range(6):
        name = f"box_{number:02}"
        for read in ("image", "label", "index"):
            found, expected = (getattr(store, read)(name) for store in reversed(stores))
            np.testing.assert_array_equal(found, expected)
        own = sitk.ReadImage(str(mixed / "labelsTr" / f"{name}.nii.gz"))
        assert stores[1].placement(name).geometry.orientation == OTHER.get(number, "LPS")
        assert stores[1].placement(name).geometry.shape == own.GetSize()[::-1]


def test_most_decide_and_the_first_on_a_tie(mixed: Path, tmp_path: Path) -> None:
    """With three cases of each: box_00 is the first by name."""
    folder = tmp_path / "tie"
    shutil.copytree(mixed, folder)
    for number in (1, 3, 5):
        for path in (*folder.glob(f"imagesTr/box_{number:02}_*"), folder / "labelsTr" / f"box_{number:02}.nii.gz"):
            sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), "SRA"), str(path))
    measured = measure_dataset(Dataset.open(folder), Listener(), LocalExecutor(1))
    assert measured.orientation == "LPS"
    shapes = [
        sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS").GetSize()[::-1] for path in sorted(folder.glob("imagesTr/*"))
    ]
    assert [case.uncropped_shape for case in measured.cases] == shapes
    for number in (0, 2):
        for path in (*folder.glob(f"imagesTr/box_{number:02}_*"), folder / "labelsTr" / f"box_{number:02}.nii.gz"):
            sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), "SRA"), str(path))
    assert measure_dataset(Dataset.open(folder), Listener(), LocalExecutor(1)).orientation == "SRA"


def axes_of(image: sitk.Image) -> str:
    return str(sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection()))


@pytest.mark.parametrize("memory", [None, 2 << 30])
def test_the_same_image_along_other_axes_has_the_same_segmentation(
    boxes: Path, model: Path, tmp_path: Path, memory: int | None
) -> None:
    image = sitk.ReadImage(str(next((boxes / "imagesTs").iterdir())))
    (tmp_path / "in").mkdir()
    codes = {"asis": "LPS", "flipped": "RAS", "sagittal": "PSR", "coronal": "LSA"}
    for name, code in codes.items():
        sitk.WriteImage(sitk.DICOMOrient(image, code), str(tmp_path / "in" / f"{name}.mha"))
    ear = Ear()
    opened = Model.open(model, "cpu", max_memory=memory, backend="torch")
    assert predict_cases(opened, find_cases([tmp_path / "in"], 1), tmp_path / "out", ear).problems == []
    expected = sitk.ReadImage(str(tmp_path / "out" / "asis.mha"))
    assert len(np.unique(sitk.GetArrayFromImage(expected))) > 1
    for name, code in codes.items():
        own = sitk.ReadImage(str(tmp_path / "in" / f"{name}.mha"))
        found = sitk.ReadImage(str(tmp_path / "out" / f"{name}.mha"))
        assert axes_of(found) == code
        assert (found.GetOrigin(), found.GetSpacing(), found.GetDirection()) == (
            own.GetOrigin(),
            own.GetSpacing(),
            own.GetDirection(),
        )
        back = sitk.DICOMOrient(found, "LPS")
        np.testing.assert_array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(expected))
        in_memory = opened.predict(own)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(in_memory), sitk.GetArrayFromImage(found))
    turned = [text for text in ear.said if "other axes" in text]
    assert len(turned) == 1
    assert turned[0].startswith(
        "3 of 4 images are stored along other axes than the training's (LPS): coronal, flipped, sagittal."
    )


def test_a_model_without_an_orientation_takes_images_as_they_are(boxes: Path, model: Path, tmp_path: Path) -> None:
    """As an imported model of nnU-Net was trained, and as old models were; arrays say no axes at all."""
    image = sitk.DICOMOrient(sitk.ReadImage(str(next((boxes / "imagesTs").iterdir()))), "PSR")
    array, spacing = sitk.GetArrayFromImage(image), image.GetSpacing()[::-1]
    as_it_is = Model.open(model, "cpu", backend="torch").predict(array, spacing)
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    description = json.loads((folder / "model.json").read_text())
    assert description["plan"].pop("orientation") == "LPS"
    (folder / "model.json").write_text(json.dumps(description))
    old = Model.open(folder, "cpu", backend="torch")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(old.predict(image)), as_it_is)
    np.testing.assert_array_equal(old.predict(array, spacing), as_it_is)
    turned = Model.open(model, "cpu", backend="torch").predict(image)
    assert (sitk.GetArrayFromImage(turned) != as_it_is).any()


def test_tiff_stacks_are_never_turned(boxes: Path, model: Path, tmp_path: Path) -> None:
    """They do not say how the patient lies."""
    image = sitk.ReadImage(str(next((boxes / "imagesTs").iterdir())))
    array = sitk.GetArrayFromImage(image)
    (tmp_path / "in").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "in" / "x.tif"))
    (tmp_path / "in" / "x.json").write_text(json.dumps({"spacing": image.GetSpacing()[::-1]}))
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    description = json.loads((folder / "model.json").read_text())
    description["plan"]["orientation"] = "PSR"
    (folder / "model.json").write_text(json.dumps(description))
    opened = Model.open(folder, "cpu", backend="torch")
    ear = Ear()
    assert predict_cases(opened, find_cases([tmp_path / "in"], 1), tmp_path / "out", ear).problems == []
    assert not [text for text in ear.said if "axes" in text]
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "x.tif")))
    np.testing.assert_array_equal(found, opened.predict(array, image.GetSpacing()[::-1]))


def test_records_without_an_orientation_keep_their_form(boxes: Path) -> None:
    """So what was made before there were orientations is not made again."""
    dataset = Dataset.open(boxes)
    found = measure_dataset(dataset, Listener(), LocalExecutor(1), digest_of_files(dataset))
    assert json.loads(found.to_json())["orientation"] == "LPS"
    old = found.model_copy(update={"orientation": ""})
    assert "orientation" not in old.to_json()
    assert Fingerprint.from_json(old.to_json()) == old
    plan = plan_by("nnunet-2018", old)
    assert "orientation" not in plan.to_json()
    assert Plan.from_json(plan.to_json()).orientation == ""
    assert plan_by("nnunet-v2", found).orientation == "LPS"
    grid = Grid(spacing_mm=(1.0, 1.0, 1.0), normalization=(ZScore(),))
    assert "orientation" not in grid.to_json()
    assert grid.digest() != grid.model_copy(update={"orientation": "LPS"}).digest()


def test_a_fit_from_mixed_axes_scores_its_label_maps_on_their_own(mixed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    limits = ["--limit", "voxel_budget=4096", "--limit", "plane_voxels=2048", "--limit", "base_features=4"]
    (tmp_path / "recipe.json").write_text(
        json.dumps({"schema": "voxfit.recipe/2", "folds": 2, "steps_per_epoch": 2, "validation_steps": 1})
    )
    arguments = ["fit", str(mixed), "-o", str(run), "--epochs", "1", "--configurations", "3d", "--workers", "1"]
    code, said = run_voxfit([*arguments, "--recipe", str(tmp_path / "recipe.json"), "--device", "cpu", *limits])
    assert code == 0, said
    assert said.count("stored along other axes") == 1
    for number in range(6):
        found = sitk.ReadImage(str(Layout(run).segmentations("3d")[f"box_{number:02}"]))
        label = sitk.ReadImage(str(mixed / "labelsTr" / f"box_{number:02}.nii.gz"))
        assert (found.GetSize(), found.GetDirection()) == (label.GetSize(), label.GetDirection())
        assert found.GetOrigin() == label.GetOrigin()
    scores = json.loads((run / "3d" / "cross_validation" / "scores.json").read_text())
    assert scores["warnings"] == []
    assert ModelDescription.load(run / "model" / "model.json").plan.orientation == "LPS"

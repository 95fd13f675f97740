"""Classes that a fold has not seen in training: said everywhere, and no blind network in a model."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from test_fit import Ear, request
from test_status import said

import voxfit
from builders.steps import begin
from voxfit.core.parallel import LocalExecutor
from voxfit.imaging.dataset import Dataset
from voxfit.inference.model_json import ModelDescription
from voxfit.planning.fingerprint import Fingerprint
from voxfit.planning.folds import Folds, split
from voxfit.running.checking import check_dataset

WORDS = "no training case has left, right. Its network is no part of the model."


def relabel(dataset, change):
    """Change the labels of cases by number."""
    for number in range(6):
        path = str(dataset / "labelsTr" / f"box_{number:02}.nii.gz")
        image = sitk.ReadImage(path)
        other = sitk.GetImageFromArray(change(number, sitk.GetArrayFromImage(image)).astype(np.uint8))
        other.CopyInformation(image)
        sitk.WriteImage(other, path)


@pytest.fixture
def only_one(own_boxes):
    """All foreground is in one of six cases."""
    relabel(own_boxes, lambda number, label: label * (number == 3))
    return own_boxes


def test_a_fold_without_foreground_is_named_and_no_part_of_the_model(only_one, tmp_path):
    run, ear = tmp_path / "run", Ear()
    voxfit.fit(request(only_one, run, configurations=("3d",), folds=None, epochs=1), ear)
    folds = Folds.load(run / "folds.json").validation
    blind = next(fold for fold, names in enumerate(folds) if "box_03" in names)
    assert f"fold {blind}: {WORDS}" in ear.warnings
    files = ModelDescription.load(run / "model/model.json").members[0].weights
    assert files == tuple(f"weights/3d_fold_{fold}.safetensors" for fold in range(3) if fold != blind)
    report = (run / "report.html").read_text()
    assert f"Fold {blind}: no training case has left, right." in report
    assert "not in the model" in said(run)[f"3d fold {blind}"]
    assert sum("not in the model" in text for text in said(run).values()) == 1


def test_check_names_it_too(only_one):
    ear = Ear()
    check_dataset(Dataset.open(only_one), ear, LocalExecutor(1))
    assert [text for text in ear.warnings if WORDS in text]


def test_rare_classes_are_spread(own_boxes, tmp_path):
    """Two of six cases have a class: those that the plain split would validate together."""
    pair = split(Dataset.open(own_boxes).cases, 3, 0).validation[1]
    relabel(own_boxes, lambda number, label: np.where(label == 5, 5 * (f"box_{number:02}" in pair), label))
    ear, run = Ear(), tmp_path / "run"
    made = begin(request(own_boxes, run), ear)
    assert {*pair} not in [{*names} for names in made.folds.validation]
    assert not made.folds.unseen(made.fingerprint.classes)
    assert ear.warnings == []
    names = [f"box_{number:02}" for number in range(6)]
    classes = Fingerprint.load(run / "fingerprint.json").classes
    assert classes == {name: (1, 2) if name in pair else (1,) for name in names}


def test_what_a_split_of_the_dataset_leaves_out_is_said_and_stays(own_boxes, tmp_path):
    relabel(own_boxes, lambda number, label: np.where(label == 5, 5 * (number < 2), label))
    names = [f"box_{number:02}" for number in range(6)]
    given = [{"train": names[2:], "val": names[:2]}, {"train": names[:2], "val": names[2:]}]
    (own_boxes / "splits_final.json").write_text(json.dumps(given))
    ear = Ear()
    made = begin(request(own_boxes, tmp_path / "run"), ear)
    assert [list(part) for part in made.folds.validation] == [names[:2], names[2:]]
    assert ear.warnings == ["fold 0: no training case has right. Its network cannot find it."]

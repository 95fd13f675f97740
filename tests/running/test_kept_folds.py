"""What was trained is used: a fold counts whoever asked for it, and whatever else was asked for with it."""

import os
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from test_pipeline import Ear, request, weights_of

import voxfit
from voxfit.assessment.scores import Scores
from voxfit.core.errors import UsageError
from voxfit.inference.description import ModelDescription
from voxfit.planning.folds import Folds
from voxfit.planning.plan import Plan
from voxfit.planning.recipe import Recipe
from voxfit.running.folds import training_task
from voxfit.running.pipeline import Run
from voxfit.running.present import FoldManifest


def trainings(ear):
    return [stage for stage in ear.stages if stage.startswith("Training ")]


def files_of(model):
    return [file for member in ModelDescription.load(model / "model.json").members for file in member.weights]


@pytest.fixture(scope="module")
def one_by_one(boxes, tmp_path_factory):
    """A run to which folds were added, and what was heard each time."""
    run, ears = tmp_path_factory.mktemp("kept"), []
    for folds in ((0,), (1,), (0, 1)):
        ears.append(Ear())
        voxfit.fit(request(boxes, run, configurations=("3d",), folds=folds, epochs=1), ears[-1])
    return run, ears


def test_a_model_holds_every_finished_fold(one_by_one):
    run, ears = one_by_one
    assert [trainings(ear) for ear in ears] == [["Training 3d fold 0"], ["Training 3d fold 1"], []]
    assert ears[2].stages == []
    assert files_of(run / "model") == [f"weights/3d_fold_{fold}.safetensors" for fold in (0, 1)]
    folds = Folds.load(run / "folds.json").validation
    scored = [case.name for case in Scores.load(run / "3d/cross_validation/scores.json").cases]
    assert sorted(scored) == sorted([*folds[0], *folds[1]])


def test_a_fold_does_not_depend_on_those_asked_for_with_it(one_by_one, boxes, tmp_path):
    voxfit.fit(request(boxes, tmp_path, configurations=("3d",), folds=(0, 1), epochs=1))
    assert weights_of(tmp_path) == weights_of(one_by_one[0])


def test_with_a_budget_too(boxes, tmp_path):
    ears = []
    for folds in ((0,), (1,), (0, 1)):
        ears.append(Ear())
        asked = request(boxes, tmp_path, configurations=("3d",), folds=folds, epochs=None, budget_seconds=25.0)
        before = weights_of(tmp_path)
        voxfit.fit(asked, ears[-1])
        assert before.items() <= weights_of(tmp_path).items()
    assert [trainings(ear) for ear in ears] == [["Training 3d fold 0"], ["Training 3d fold 1"], []]
    assert len(files_of(tmp_path / "model")) == 2
    assert not list(tmp_path.glob("superseded/*/plan.json"))
    # The second fold had the whole of the budget that was asked for with it, and the plan says so.
    manifests = [FoldManifest.load(tmp_path / f"3d/fold_{fold}/manifest.json") for fold in (0, 1)]
    given = [manifest.given_seconds for manifest in manifests]
    assert all(0 < seconds < 25 for seconds in given)
    assert Recipe.load(tmp_path / "recipe.json").schedule.seconds == given[1]
    assert "asked for later" in Plan.load(tmp_path / "plan.json").changes[-1]
    assert [text for text in ears[0].sentences if text.startswith("Took ")]
    assert not [text for text in ears[2].sentences if text.startswith("Took ")]


class Stop(Exception):
    """Ends a fit as an interruption would."""


class Stopping(Ear):
    """Ends a fit in the first epoch of a training."""

    def __init__(self, where):
        super().__init__()
        self.where = where

    def epoch(self, report):
        if report.model == self.where:
            raise Stop


def test_a_training_that_has_begun_keeps_its_time_whatever_is_asked_next(boxes, tmp_path):
    def asked(*folds):
        return request(boxes, tmp_path, configurations=("3d",), folds=folds, epochs=None, budget_seconds=60.0)

    with pytest.raises(Stop):
        voxfit.fit(asked(0, 1, 2), Stopping("3d fold 0"))
    share = Recipe.load(tmp_path / "recipe.json").schedule.seconds
    again = Run(asked(0, 1, 2))
    assert again.settings[1].schedule.seconds == share  # the same command goes on as it was
    other = Run(asked(0, 1))
    assert other.settings[1].schedule.seconds > 1.2 * share
    assert training_task(other, "3d", 0).recipe.schedule.seconds == share
    assert training_task(other, "3d", 1).recipe.schedule.seconds == other.settings[1].schedule.seconds


def test_another_budget_trains_again(boxes, tmp_path):
    """How long was asked for is no share: more time must not end in what less time has made."""
    for seconds in (60.0, 6000.0):
        run = Run(request(boxes, tmp_path, configurations=("3d",), folds=(0,), epochs=None, budget_seconds=seconds))
        assert not run.present.is_trained("3d", 0)
        manifest = FoldManifest(made_from=run.present.fold_origin("3d", 0), epochs=1, seconds=1.0, validation_cases=())
        manifest.save(tmp_path / "3d/fold_0/manifest.json")
        assert run.present.is_trained("3d", 0)


def test_candidates_of_unequal_folds_are_compared_on_the_same_cases(boxes, tmp_path):
    voxfit.fit(request(boxes, tmp_path, configurations=("2d",), folds=(0, 1), epochs=1))
    result = voxfit.fit(request(boxes, tmp_path, configurations=("2d", "3d"), folds=(1,), epochs=1))
    assert {candidate.name: candidate.cases for candidate in result.selection.candidates} == {
        "2d": 2,
        "3d": 2,
        "2d+3d": 2,
    }
    assert result.selection.folds == (1, 3)
    assert len(Scores.load(tmp_path / "2d/cross_validation/scores.json").cases) == 4


def test_every_training_draws_other_numbers(boxes, tmp_path):
    run = Run(request(boxes, tmp_path))
    seeds = {training_task(run, name, fold).seed for name in ("2d", "3d") for fold in range(3)}
    assert len(seeds) == 6


@pytest.mark.parametrize("what", ["imagesTr/box_00_0000.nii.gz", "labelsTr/box_00.nii.gz"])
def test_weights_are_not_kept_when_the_data_change(one_by_one, own_boxes, boxes, tmp_path, what):
    run = tmp_path / "run"
    shutil.copytree(one_by_one[0], run)
    asked = request(boxes, run, configurations=("3d",), folds=(0, 1), epochs=1)
    assert Run(asked).present.trained("3d") == (0, 1)
    image = sitk.ReadImage(str(own_boxes / what))
    array = sitk.GetArrayFromImage(image)
    other = sitk.GetImageFromArray(np.roll(array, 1, axis=0))
    other.CopyInformation(image)
    for path in boxes.rglob("*"):  # a copy with the same times, but for the one file
        if path.is_file():
            shutil.copy2(path, own_boxes / path.relative_to(boxes))
    asked = request(own_boxes, run, configurations=("3d",), folds=(0, 1), epochs=1)
    assert Run(asked).present.trained("3d") == (0, 1)
    sitk.WriteImage(other, str(own_boxes / what))
    assert os.stat(own_boxes / what).st_mtime_ns != os.stat(boxes / what).st_mtime_ns
    assert Run(asked).present.trained("3d") == ()


def test_what_cannot_be_done_is_refused_before_anything_is_written(boxes, tmp_path):
    for change, words in (
        ({"device": "gpu"}, "--device gpu: not there"),
        ({"configurations": ("4d",)}, "--configurations 4d: there are 2d, 3d, 3d_lowres, 3d_cascade"),
    ):
        with pytest.raises(UsageError, match=words):
            voxfit.fit(voxfit.FitRequest(boxes, tmp_path / "run", **({"device": "cpu"} | change)))
        assert not (tmp_path / "run").exists()
    for fold in (3, -1):
        with pytest.raises(UsageError, match=f"--folds {fold}: there are the folds 0 to 2"):
            voxfit.fit(request(boxes, tmp_path / "run", folds=(0, fold)))
        assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("where", [".", "run", "imagesTr/run", "../link", "../link/run", "../images/run"])
def test_a_run_is_never_in_the_dataset(own_boxes, where):
    (own_boxes.parent / "link").symlink_to(own_boxes)
    (own_boxes.parent / "images").symlink_to(own_boxes / "imagesTr")
    before = sorted(own_boxes.rglob("*"))
    for act in (voxfit.fit, lambda asked: Run(asked).base_plan):
        with pytest.raises(UsageError, match="is in the dataset"):
            act(request(own_boxes, own_boxes / where))
    assert sorted(own_boxes.rglob("*")) == before


@pytest.mark.parametrize("part", ["2d", "store", "model", "superseded/old"])
def test_a_dataset_is_never_among_what_a_run_replaces(own_boxes, tmp_path, part):
    run = tmp_path / "run"
    (run / part).parent.mkdir(parents=True)
    own_boxes.rename(run / part)
    with pytest.raises(UsageError, match="among what a run replaces"):
        voxfit.fit(request(run / part, run))
    voxfit_run = Run(request(run / part, tmp_path / "elsewhere"))
    assert voxfit_run.described.cases

"""What was trained is used: a fold counts whoever asked for it, and whatever else was asked for with it."""

import os
import shutil
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from test_fit import Ear, request, weights_of

import voxfit
from builders.steps import begin
from voxfit.assessment.scores import Scores
from voxfit.core.errors import UsageError
from voxfit.core.layout import Layout
from voxfit.inference.model_json import ModelDescription
from voxfit.planning.folds import Folds
from voxfit.planning.settings import Settings
from voxfit.running.artefacts import FoldManifest, trained_folds, training_artefact
from voxfit.running.budget import counted_recipe
from voxfit.running.preparation import prepare_only
from voxfit.running.status import describe
from voxfit.running.trainings import given_time, training_task


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
    assert not [*tmp_path.glob("superseded/*/training.json"), *tmp_path.glob("superseded/*/3d/fold_*")]
    # The second fold had the whole of the budget that was asked for with it, and the plan says so.
    manifests = [FoldManifest.load(tmp_path / f"3d/fold_{fold}/manifest.json") for fold in (0, 1)]
    given = [manifest.given_seconds for manifest in manifests]
    assert all(0 < seconds < 25 for seconds in given)
    assert Settings.load(tmp_path / "training.json").recipe.schedule.seconds == given[1]
    assert "asked for later" in Settings.load(tmp_path / "training.json").plan.changes[-1]
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
    share = Settings.load(tmp_path / "training.json").recipe.schedule.seconds
    again = begin(asked(0, 1, 2)).settle()
    assert again.settings.recipe.schedule.seconds == share  # the same command goes on as it was
    other = begin(asked(0, 1)).settle()
    assert other.settings.recipe.schedule.seconds > 1.2 * share
    for fold, seconds in ((0, share), (1, other.settings.recipe.schedule.seconds)):
        part = training_artefact(Layout(tmp_path), other, "3d", fold).part
        task = training_task(other, "3d", fold, given_time(part, other))
        assert task.recipe.schedule.seconds == seconds


def test_another_budget_trains_again(boxes, tmp_path):
    """How long was asked for is no share: more time must not end in what less time has made."""
    for seconds in (60.0, 6000.0):
        asked = request(boxes, tmp_path, configurations=("3d",), folds=(0,), epochs=None, budget_seconds=seconds)
        with pytest.raises(UsageError, match="--restart") if seconds > 60 else nullcontext():
            begin(asked).settle()
        experiment = begin(replace(asked, restart=True)).settle()
        artefact = training_artefact(Layout(tmp_path), experiment, "3d", 0)
        assert not artefact.fits()
        manifest = FoldManifest(inputs_digest=artefact.inputs, epochs=1, seconds=1.0, validation_cases=())
        manifest.save(artefact.place())
        assert artefact.fits()


def test_what_was_set_aside_is_found_again(boxes, tmp_path):
    """A schedule that comes back finds its models, cross-validations, choice and model: nothing is made twice."""

    def asked(epochs):
        return request(boxes, tmp_path, configurations=("3d",), folds=(0,), epochs=epochs, restart=True)

    voxfit.fit(asked(1))
    first = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if made_of_training(path)}
    voxfit.fit(asked(2))
    ear = Ear()
    voxfit.fit(asked(1), ear)
    assert [stage for stage in ear.stages if stage != "Writing the report"] == []
    assert {path: (tmp_path / path).read_bytes() for path in first} == first
    again = [text for text in ear.sentences if "is found again" in text]
    assert [text.split()[0] for text in again] == [
        "training.json", "3d/fold_0", "3d/cross_validation/fold_0", "selection.json", "model",
    ]  # fmt: skip


def test_label_maps_of_another_training_are_not_among_the_present_ones(one_by_one, boxes, tmp_path):
    """A fold that is not trained anew keeps its weights, but its cross-validation is of the settings before."""
    run = tmp_path / "run"
    shutil.copytree(one_by_one[0], run)
    folds, layout = Folds.load(run / "folds.json").validation, Layout(run)
    assert layout.segmentations("3d").keys() == {*folds[0], *folds[1]}
    voxfit.fit(request(boxes, run, configurations=("3d",), folds=(0,), epochs=2, restart=True))
    assert layout.segmentations("3d").keys() == {*folds[0]}
    assert (run / "3d/fold_1/weights.safetensors").exists()
    ear = Ear()
    voxfit.fit(request(boxes, run, configurations=("3d",), folds=(0, 1), epochs=1, restart=True), ear)
    assert layout.segmentations("3d").keys() == {*folds[0], *folds[1]}
    assert [stage for stage in ear.stages if stage != "Writing the report"] == []


@pytest.mark.parametrize("way", [{"epochs": 1}, {"epochs": None, "budget_seconds": 60.0}])
def test_no_training_depends_on_metrics(boxes, tmp_path, way):
    asked = request(boxes, tmp_path, configurations=("3d",), folds=(0,), **way)
    before = begin(asked).settle()
    after = begin(replace(asked, recipe=asked.recipe.revised(metrics=("surface",)))).settle()
    assert after.settings == before.settings.revised(recipe=before.settings.recipe.revised(metrics=("surface",)))
    assert after.training_digest("3d", 0) == before.training_digest("3d", 0)
    assert after.validation_digest(("3d",), (0,)) != before.validation_digest(("3d",), (0,))


def made_of_training(path):
    return path.is_file() and path.name in ("weights.safetensors", "selection.json", "model.json", "manifest.json")


def test_an_interrupted_budget_goes_on_whatever_was_asked_in_between(boxes, tmp_path):
    def asked(**changes):
        return request(boxes, tmp_path, configurations=("3d",), folds=(0,), **changes)

    ways = {"budget": {"epochs": None, "budget_seconds": 60.0}, "epochs": {"epochs": 5}}
    for turn in range(2):
        for changes in ways.values():
            ear = Stopping("3d fold 0")
            with pytest.raises(Stop):
                voxfit.fit(asked(**changes), ear)
            # In the second turn from the checkpoint that the first has left for this schedule.
            assert [text for text in ear.sentences if "goes on" in text] == ["3d fold 0: goes on after epoch 1."] * turn
            fitted = "Fitting batch and width to the budget" in ear.stages
            assert fitted == (turn == 0 and "budget_seconds" in changes)
    (waiting,) = [line for line in describe(tmp_path) if "unfinished with other settings" in line]
    present, other = sorted((tmp_path / "3d").glob("fold_0.part-*"), key=lambda path: path.name not in waiting)[::-1]
    assert other.name in waiting
    assert present.name not in waiting
    shutil.rmtree(other)
    assert not [line for line in describe(tmp_path) if "other settings" in line]


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
    made = begin(request(boxes, tmp_path)).plain()
    seeds = {training_task(made, name, fold).seed for name in ("2d", "3d") for fold in range(3)}
    assert len(seeds) == 6


def trained(asked):
    """The folds of a run that would be kept."""
    made = begin(asked)
    recipe = counted_recipe(asked.recipe, asked.epochs)
    return trained_folds(made.run.layout, made.identify(Settings(plan=made.plan, recipe=recipe)), "3d")


@pytest.mark.parametrize("what", ["imagesTr/box_00_0000.nii.gz", "labelsTr/box_00.nii.gz"])
def test_weights_are_not_kept_when_the_data_change(one_by_one, own_boxes, boxes, tmp_path, what):
    run = tmp_path / "run"
    shutil.copytree(one_by_one[0], run)
    asked = request(boxes, run, configurations=("3d",), folds=(0, 1), epochs=1)
    assert trained(asked) == (0, 1)
    image = sitk.ReadImage(str(own_boxes / what))
    array = sitk.GetArrayFromImage(image)
    other = sitk.GetImageFromArray(np.roll(array, 1, axis=0))
    other.CopyInformation(image)
    for path in boxes.rglob("*"):  # a copy with the same times, but for the one file
        if path.is_file():
            shutil.copy2(path, own_boxes / path.relative_to(boxes))
    asked = request(own_boxes, run, configurations=("3d",), folds=(0, 1), epochs=1)
    assert trained(asked) == (0, 1)
    sitk.WriteImage(other, str(own_boxes / what))
    assert os.stat(own_boxes / what).st_mtime_ns != os.stat(boxes / what).st_mtime_ns
    assert trained(asked) == ()


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
    for act in (voxfit.fit, lambda asked: prepare_only(asked, voxfit.Listener(), stores=False)):
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
    assert begin(request(run / part, tmp_path / "elsewhere")).dataset.cases

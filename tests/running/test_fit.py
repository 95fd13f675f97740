"""The whole method on a small dataset: what it writes, that it resumes, that edits count."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import voxfit
from builders.steps import begin
from voxfit.assessment.scores import Scores
from voxfit.assessment.selection import Selection
from voxfit.core.errors import ModelError, UsageError
from voxfit.core.layout import Layout
from voxfit.inference.model_json import Member, ModelDescription
from voxfit.inference.predictor import NetworkInput
from voxfit.planning.folds import Folds
from voxfit.planning.plan import Limits, Plan
from voxfit.planning.recipes import Recipe
from voxfit.planning.settings import Settings
from voxfit.preprocessing.store import Store
from voxfit.running.assembly import save_model
from voxfit.running.contact_sheet import draw_contact_sheet
from voxfit.running.validation import OutOfFold

LIMITS = Limits(voxel_budget=16**3, plane_voxels=2048, base_features=4, cascade_factor=100)
RECIPE = Recipe(folds=3, steps_per_epoch=8, validation_steps=2)


def request(dataset, run, **changes):
    fields = {"configurations": ("2d", "3d"), "folds": (0, 1), "epochs": 2, "limits": LIMITS, "recipe": RECIPE}
    return voxfit.FitRequest(dataset, run, device="cpu", workers=1, **(fields | changes))


def weights_of(run):
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.glob("*d/fold_*/weights.safetensors"))}


class Ear(voxfit.Listener):
    def __init__(self):
        self.stages, self.sentences, self.warnings = [], [], []

    def stage(self, text):
        self.stages.append(text)

    def say(self, text):
        self.sentences.append(text)

    def warn(self, text):
        self.warnings.append(text)


@pytest.fixture(scope="module")
def finished(boxes, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    return run, voxfit.fit(request(boxes, run))


def test_it_writes_what_it_promises(finished):
    run, result = finished
    for name in (
        "dataset.json",
        "fingerprint.json",
        "plan.json",
        "training.json",
        "folds.json",
        "selection.json",
        "report.html",
    ):
        assert (run / name).is_file(), name
    assert len(weights_of(run)) == 4
    assert not list(run.rglob("checkpoint"))
    assert not list(run.rglob("*part-*"))
    assert not (run / "lock.json").exists()
    assert (result.model / "model.json").is_file()


def test_models_and_their_ensemble_are_compared(finished):
    run, result = finished
    assert [candidate.name for candidate in result.selection.candidates] == ["2d", "3d", "2d+3d"]
    best = max(candidate.foreground_dice for candidate in result.selection.candidates)
    assert result.selection.winner().foreground_dice == best
    assert result.selection == Selection.load(run / "selection.json")
    for name in ("2d/cross_validation", "3d/cross_validation", "ensembles/2d+3d"):
        scores = Scores.load(run / name / "scores.json")
        assert len(scores.cases) == 4  # two of three folds of six cases
        assert scores.labels == ("left", "right")


def test_cross_validation_writes_the_values_and_grids_of_the_labels(finished, boxes):
    run, _ = finished
    for path in Layout(run).segmentations("3d").values():
        predicted, reference = sitk.ReadImage(str(path)), sitk.ReadImage(str(boxes / "labelsTr" / path.name))
        assert predicted.GetSize() == reference.GetSize()
        assert predicted.GetOrigin() == pytest.approx(reference.GetOrigin())
        assert predicted.GetSpacing() == pytest.approx(reference.GetSpacing())
        assert set(np.unique(sitk.GetArrayFromImage(predicted))) <= {0, 2, 5}


def one_network(run, name, fold, folder):
    """A model of a single fold of a run, opened."""
    (folder / "weights").mkdir(parents=True)
    shutil.copyfile(run / name / f"fold_{fold}" / "weights.safetensors", folder / "weights/one.safetensors")
    ModelDescription(
        name=name,
        plan=Plan.load(run / "plan.json"),
        members=(Member(configuration=name, weights=("weights/one.safetensors",)),),
        cross_validated_dice=None,
        inputs_digest="",
        made_by="a test",
    ).save(folder / "model.json")
    return voxfit.Model.open(folder, "cpu", backend="torch")


@pytest.mark.parametrize("name", ["2d", "3d"])
def test_every_case_is_segmented_by_the_fold_that_has_not_seen_it(finished, boxes, tmp_path, name):
    """As `predict` would with that network alone, and not as with the other."""
    run, _ = finished
    models = [one_network(run, name, fold, tmp_path / f"fold_{fold}") for fold in (0, 1)]
    different = 0
    for fold, cases in enumerate(Folds.load(run / "folds.json").validation[:2]):
        for case in cases:
            image = sitk.ReadImage(str(boxes / "imagesTr" / f"{case}_0000.nii.gz"))
            own, other = (sitk.GetArrayFromImage(models[number].predict(image)) for number in (fold, 1 - fold))
            stored = sitk.GetArrayFromImage(sitk.ReadImage(str(Layout(run).validation(name, fold).label(case))))
            assert np.array_equal(stored, own)
            different += not np.array_equal(stored, other)
    assert different


@pytest.mark.parametrize("name", ["2d", "3d"])
def test_ensembles_are_made_of_mirrored_probabilities(finished, tmp_path, name):
    run, _ = finished
    store = Store(run / "store" / Plan.load(run / "plan.json").grid(name).folder)
    for fold, cases in enumerate(Folds.load(run / "folds.json").validation[:2]):
        predictor = one_network(run, name, fold, tmp_path / f"fold_{fold}").predictors[name]
        assert len(predictor.flips) > 1
        for case in cases:
            wanted = predictor.predict(NetworkInput(np.asarray(store.image(case))))
            stored = np.load(Layout(run).validation(name, fold).probabilities(case))
            assert stored.dtype == np.float16
            assert np.abs(stored - wanted).max() < 2**-11  # half a step of half precision below 1


def test_running_again_does_nothing(finished, boxes):
    run, _ = finished
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    ear = Ear()
    voxfit.fit(request(boxes, run), ear)
    assert ear.stages == []
    after = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    changed = {path.name for path in after if after[path] != before.get(path)}
    assert changed == set()


def test_a_killed_fit_goes_on_and_ends_in_the_same_weights(finished, boxes, tmp_path):
    """kill -9 in the middle of training, by a process of its own."""
    whole, _ = finished
    run = tmp_path / "run"
    script = (
        "import voxfit, sys; sys.path[:0] = sys.argv[3:]\n"
        "from test_fit import request\n"
        "from pathlib import Path\n"
        "voxfit.fit(request(Path(sys.argv[1]), Path(sys.argv[2])))\n"
    )
    command = [sys.executable, "-c", script, str(boxes), str(run), *map(str, Path(__file__).parents[:2])]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 120
    while not list(run.glob("3d/fold_0.part-*/checkpoint/*/epoch_*")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (run / "selection.json").exists()
    voxfit.fit(request(boxes, run))
    assert weights_of(run) == weights_of(whole)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(finished, boxes, tmp_path):
    """Everything that a fit decides comes out again: split, weights, segmentations, choice, model."""
    first, second, other = finished[0], tmp_path / "again", tmp_path / "other"
    voxfit.fit(request(boxes, second))
    voxfit.fit(request(boxes, other, recipe=RECIPE.revised(seed=1)))
    assert weights_of(second) == weights_of(first)
    for pattern in (
        "folds.json",
        "selection.json",
        "*d/cross_validation/*/*.nii.gz",
        "model/*.json",
        "model/weights/*",
    ):
        paths = sorted(path.relative_to(first) for path in first.glob(pattern))
        assert paths
        assert [(second / path).read_bytes() for path in paths] == [(first / path).read_bytes() for path in paths]
    assert (other / "folds.json").read_bytes() != (first / "folds.json").read_bytes()
    for name, content in weights_of(other).items():
        assert content != weights_of(first)[name]


def test_an_edited_plan_retrains_only_what_it_touches(finished, boxes, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    plan = json.loads((run / "plan.json").read_text())
    plan["configurations"]["3d"]["batch_size"] += 1
    (run / "plan.json").write_text(json.dumps(plan))
    ear, before = Ear(), weights_of(run)
    with pytest.raises(UsageError, match=r"3d fold 0, 3d fold 1 are trained with other settings.*--restart"):
        voxfit.fit(request(boxes, run), ear)
    assert weights_of(run) == before
    command = (run / "command.json").read_bytes()
    with pytest.raises(UsageError, match=r"2d fold 0, 2d fold 1, 3d fold 0, 3d fold 1 are trained with other"):
        voxfit.fit(request(boxes, run, epochs=3), ear)
    assert (run / "command.json").read_bytes() == command, "what `status` tells is what was asked then"
    voxfit.fit(request(boxes, run, restart=True), ear)
    after = weights_of(run)
    assert [before[name] == after[name] for name in sorted(before)] == [True, True, False, False]
    assert not any("Preparing" in stage for stage in ear.stages)
    assert Plan.load(run / "plan.json").configurations["3d"].batch_size == plan["configurations"]["3d"]["batch_size"]
    assert list((run / "superseded").rglob("weights.safetensors"))
    few = [text for text in ear.warnings if "only 16 training steps" in text]
    assert [text[:9] for text in few] == ["3d fold 0", "3d fold 1"]


def test_another_way_of_predicting_is_scored_again_without_training(finished, boxes, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    plan = Plan.load(run / "plan.json")
    plan.revised(inference=plan.inference.revised(mirror_axes=())).save(run / "plan.json")
    ear, before = Ear(), weights_of(run)
    voxfit.fit(request(boxes, run), ear)
    assert weights_of(run) == before
    assert not any("Training" in stage for stage in ear.stages)
    assert [stage for stage in ear.stages if "Cross-validating" in stage] == [
        f"Cross-validating {name} fold {fold}" for name in ("2d", "3d") for fold in (0, 1)
    ]
    assert all(len(item.flips) == 1 for item in voxfit.Model.open(run, "cpu").predictors.values())


def test_a_budget_is_written_into_the_settings(boxes, tmp_path):
    result = voxfit.fit(request(boxes, tmp_path, configurations=("3d",), folds=(0,), epochs=None, budget_seconds=25.0))
    found = Settings.load(tmp_path / "training.json")
    assert found.plan.changes
    assert 0 < found.recipe.schedule.seconds < 25
    assert result.selection.chosen == "3d"
    stamp = (tmp_path / "3d/fold_0/weights.safetensors").stat().st_mtime_ns
    voxfit.fit(request(boxes, tmp_path, configurations=("3d",), folds=(0,), epochs=None, budget_seconds=25.0))
    assert (tmp_path / "3d/fold_0/weights.safetensors").stat().st_mtime_ns == stamp


def test_what_came_before_the_training_is_part_of_the_budget(boxes, tmp_path):
    class Slow(voxfit.Listener):
        def stage(self, text):
            if text.startswith("Preparing"):
                time.sleep(6.0)
            if text.startswith("Training"):
                raise InterruptedError

    asked = request(boxes, tmp_path, configurations=("3d",), folds=(0,), epochs=None, budget_seconds=25.0)
    with pytest.raises(InterruptedError):
        voxfit.fit(asked, Slow())
    # Six seconds were slept, eight are kept for model and report.
    assert 0 < Settings.load(tmp_path / "training.json").recipe.schedule.seconds < 25 - 6 - 8


def test_images_and_arrays_are_segmented_alike(finished, boxes):
    model = voxfit.Model.open(finished[0], "cpu")
    path = boxes / "imagesTs" / "box_06_0000.nii.gz"
    image = sitk.ReadImage(str(path))
    label = model.predict(image)
    assert label.GetSize() == image.GetSize()
    assert label.GetOrigin() == image.GetOrigin()
    array = model.predict(sitk.GetArrayFromImage(image), spacing_mm=image.GetSpacing()[::-1])
    assert np.array_equal(array, sitk.GetArrayFromImage(label))
    with pytest.raises(UsageError, match="spacing_mm"):
        model.predict(sitk.GetArrayFromImage(image))


def test_a_model_moves_and_needs_neither_training_code_nor_pickle(finished, boxes, tmp_path):
    shutil.copytree(finished[0] / "model", tmp_path / "moved")
    script = (
        "import sys, pickle\n"
        "class Refused:\n"
        "    def __init__(self, *a, **k): raise AssertionError('pickle was used')\n"
        "import voxfit\n"
        "pickle.Unpickler = Refused; pickle.load = pickle.loads = Refused\n"
        "model = voxfit.Model.open(sys.argv[1], 'cpu')\n"
        "import SimpleITK\n"
        "print(model.predict(SimpleITK.ReadImage(sys.argv[2])).GetSize())\n"
        "assert not any(name.startswith('voxfit.learning') for name in sys.modules)\n"
    )
    image = boxes / "imagesTs" / "box_06_0000.nii.gz"
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "moved"), str(image)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(sitk.ReadImage(str(image)).GetSize())


@pytest.mark.parametrize("damage", ["missing", "truncated", "swapped"])
def test_damaged_models_are_refused(finished, tmp_path, damage):
    folder = tmp_path / "model"
    shutil.copytree(finished[0] / "model", folder)
    first = sorted(folder.glob("weights/*"))[0]
    if damage == "missing":
        first.unlink()
    elif damage == "truncated":
        first.write_bytes(first.read_bytes()[:-100])
    else:
        other = next(
            path for path in finished[0].glob("*d/fold_0/*.safetensors") if path.stat().st_size != first.stat().st_size
        )
        shutil.copyfile(other, first)
    with pytest.raises(ModelError, match=first.name):
        voxfit.Model.open(folder, "cpu")


@pytest.mark.parametrize("name", ["2d", "3d"])
def test_a_contact_sheet_shows_patches_and_outlines(finished, tmp_path, name):
    draw_contact_sheet(finished[0], name, tmp_path / "sheet.png", rows=2, columns=3)
    picture = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "sheet.png")))
    assert picture.shape[2] == 3
    grey = (picture[..., 0] == picture[..., 1]) & (picture[..., 1] == picture[..., 2])
    assert 0 < (~grey).sum() < grey.sum()
    with pytest.raises(UsageError, match="the plan has 2d, 3d"):
        draw_contact_sheet(finished[0], "4d", tmp_path / "sheet.png")


def test_asking_for_what_there_is_not(boxes, tmp_path):
    with pytest.raises(UsageError, match=r"--configurations 3d_cascade: the plan of this dataset offers 2d, 3d"):
        voxfit.fit(request(boxes, tmp_path, configurations=("3d_cascade",)))
    with pytest.raises(UsageError, match="--folds 7: there are the folds 0 to 2"):
        voxfit.fit(request(boxes, tmp_path, folds=(7,)))
    with pytest.raises(UsageError, match="exclude each other"):
        voxfit.fit(request(boxes, tmp_path, budget_seconds=10.0))


def test_a_model_knows_what_it_was_trained_on_and_its_fastest_way(finished):
    """Against the images themselves, and the scores of predictions without mirroring."""
    run, result = finished
    known = ModelDescription.load(result.model / "model.json")
    images = [sitk.ReadImage(path) for path in known_images(run)]
    spacings = np.sort([image.GetSpacing() for image in images])
    extents = np.sort([np.multiply(image.GetSize(), image.GetSpacing()) for image in images])
    for spans, values in ((known.trained_on.spacing_mm, spacings), (known.trained_on.extent_mm, extents)):
        np.testing.assert_allclose([span.low for span in spans], values.min(axis=0), rtol=1e-5)
        np.testing.assert_allclose([span.high for span in spans], values.max(axis=0), rtol=1e-5)
    ((low, middle, high),) = known.trained_on.intensities
    assert low.high < middle.low <= middle.high < high.low
    plain = {
        name: Scores.load(run / name / "cross_validation" / "scores_without_tta.json").mean.foreground_dice
        for name in result.selection.winner().configurations
    }
    assert known.fast.configuration == max(plain, key=plain.get)
    assert known.fast.cross_validated_dice == max(plain.values())


@pytest.mark.parametrize("best", ["2d", "3d"])
def test_of_an_ensemble_the_member_that_is_best_without_mirroring_is_the_fast_way(finished, boxes, tmp_path, best):
    shutil.copytree(finished[0], tmp_path / "run")
    made = begin(request(boxes, tmp_path / "run"))
    found, stores = {}, {name: made.store(name) for name in ("2d", "3d")}
    for name in ("2d", "3d"):
        scores = Scores.load(tmp_path / "run" / name / "cross_validation" / "scores.json")
        mean = scores.mean.revised(foreground_dice=0.9 if name == best else 0.4)
        found[name] = OutOfFold(name, scores, scores.revised(mean=mean), {}, 2)
    both = finished[1].selection.revised(chosen="2d+3d")
    trained = {"2d": (0, 1), "3d": (0, 1)}
    model = save_model(made.run, made.settle(), both, trained, found, stores, made.dataset, made.fingerprint)
    fast = ModelDescription.load(model / "model.json").fast
    assert (fast.configuration, fast.cross_validated_dice) == (best, 0.9)


def known_images(run):
    return [case["images"][0] for case in json.loads((run / "dataset.json").read_text())["cases"]]

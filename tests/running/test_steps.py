"""The steps of `fit` by themselves: train a fold, validate one, put a model together; untrained networks will do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import SimpleITK as sitk

import voxfit
from builders.steps import Begun, begin
from voxfit.assessment.evaluation import evaluate
from voxfit.assessment.scores import Scores, summarize
from voxfit.assessment.selection import Candidate, Selection
from voxfit.core.layout import FoldLayout, Layout, ValidationLayout
from voxfit.inference.model import Model
from voxfit.inference.model_json import Member, ModelDescription
from voxfit.networks.unet import build_network, inference_weights
from voxfit.planning.plan import ConfigurationName, Limits
from voxfit.planning.recipes import Recipe
from voxfit.planning.settings import Settings
from voxfit.running.assembly import save_model
from voxfit.running.budget import counted_recipe
from voxfit.running.trainings import train_fold, training_task
from voxfit.running.validation import OutOfFold, Validation, validate_fold

LIMITS = Limits(voxel_budget=8**3, plane_voxels=512, base_features=4, cascade_factor=2)
NAMES: tuple[ConfigurationName, ...] = ("3d", "3d_lowres", "3d_cascade")


@pytest.fixture(scope="module")
def begun(boxes: Path, tmp_path_factory: pytest.TempPathFactory) -> Begun:
    """A dataset with a cascade, planned; its run folder is never written to."""
    recipe = Recipe(folds=2, steps_per_epoch=2, validation_steps=1)
    run = tmp_path_factory.mktemp("steps")
    return begin(voxfit.FitRequest(boxes, run, configurations=NAMES, recipe=recipe, limits=LIMITS, workers=1))


def write_network(begun: Begun, name: ConfigurationName, path: Path, seed: int) -> bytes:
    """The weights of a network as training leaves them."""
    content = safetensors.torch.save(inference_weights(build_network(begun.plan.topology(name), seed=seed)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return content


def one_member(begun: Begun, name: ConfigurationName, folder: Path, seed: int) -> Model:
    """A model of that network alone."""
    write_network(begun, name, folder / "weights/one.safetensors", seed)
    ModelDescription(
        name=name,
        plan=begun.plan,
        members=(Member(configuration=name, weights=("weights/one.safetensors",)),),
        cross_validated_dice=None,
        made_by="a test",
    ).save(folder / "model.json")
    return Model.open(folder, "cpu", backend="torch")


def common(begun: Begun, *names: ConfigurationName) -> Validation:
    stores = {name: begun.store(name) for name in names}
    return Validation(begun.plain().settings, begun.dataset, stores, "cpu", begun.request.executor, voxfit.Listener())


def test_a_fold_is_trained_into_a_folder(begun: Begun, tmp_path: Path) -> None:
    recipe = counted_recipe(begun.request.recipe, 1)
    task = training_task(begun.identify(Settings(plan=begun.plan, recipe=recipe)), "3d", 1)
    made = [
        train_fold(task, begun.store(), None, "cpu", FoldLayout(tmp_path / name), voxfit.Listener())
        for name in ("one", "two")
    ]
    assert made[0] == made[1].revised(seconds=made[0].seconds)
    assert (made[0].epochs, made[0].validation_cases) == (1, begun.folds.validation[1])
    one, two = (FoldLayout(tmp_path / name).weights.read_bytes() for name in ("one", "two"))
    assert one == two
    untrained = inference_weights(build_network(task.topology, seed=task.seed))
    trained = safetensors.torch.load(one)
    assert trained.keys() == untrained.keys()
    assert any((trained[key] != untrained[key]).any() for key in trained)


def test_a_fold_is_validated_into_a_folder(begun: Begun, boxes: Path, tmp_path: Path) -> None:
    """What is said of each case is what a model of that network says of it; scores are those of the label maps."""
    shared, cases = common(begun, "3d"), begun.folds.validation[0]
    write_network(begun, "3d", tmp_path / "weights.safetensors", seed=3)
    part = ValidationLayout(tmp_path / "part")
    part.root.mkdir()
    validate_fold(shared, "3d fold 0", "3d", tmp_path / "weights.safetensors", cases, None, part.root)
    model = one_member(begun, "3d", tmp_path / "model", seed=3)
    for case in cases:
        found = sitk.ReadImage(str(part.label(case)))
        said = model.predict(sitk.ReadImage(str(boxes / "imagesTr" / f"{case}_0000.nii.gz")))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(said))
    assert sorted(path.name for path in part.root.iterdir()) == sorted(
        [*(f"{case}.nii.gz" for case in cases), "scores.json", "scores_without_tta.json"]
    )
    for case in cases:
        (tmp_path / "maps").mkdir(exist_ok=True)
        (tmp_path / "maps" / f"{case}.nii.gz").write_bytes(part.label(case).read_bytes())
    expected = evaluate(tmp_path / "maps", boxes / "labelsTr", labels=begun.dataset.labels, workers=1)
    assert Scores.load(part.scores).mean == expected.mean


def test_what_was_segmented_before_an_interruption_stays(begun: Begun, tmp_path: Path) -> None:
    shared, cases = common(begun, "3d"), begun.folds.validation[0]
    write_network(begun, "3d", tmp_path / "weights.safetensors", seed=3)
    part = tmp_path / "part"
    part.mkdir()
    validate_fold(shared, "3d fold 0", "3d", tmp_path / "weights.safetensors", cases, None, part)
    stamps = {path: path.stat().st_mtime_ns for path in part.glob("*.nii.gz")}
    last = ValidationLayout(part).label(cases[-1])
    last.unlink()
    validate_fold(shared, "3d fold 0", "3d", tmp_path / "weights.safetensors", cases, None, part)
    assert last.exists()
    assert all(path == last or path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


def test_the_first_stage_hands_on_what_the_second_is_trained_on(begun: Begun, tmp_path: Path) -> None:
    shared = common(begun, "3d_lowres", "3d_cascade")
    write_network(begun, "3d_lowres", tmp_path / "weights.safetensors", seed=0)
    place = Layout(tmp_path).validation("3d_lowres", 0)
    place.root.mkdir(parents=True)
    (case,) = begun.folds.validation[0][:1]
    validate_fold(shared, "first", "3d_lowres", tmp_path / "weights.safetensors", (case,), None, place.root)
    empty = summarize([], begun.dataset.labels)
    said = OutOfFold("3d_lowres", empty, empty, {case: place}, begun.plan.labels.count - 1).previous()
    assert said.segmentation(case).shape == shared.stores["3d_cascade"].label(case).shape
    assert said.classes == 2
    second = ValidationLayout(tmp_path / "second")
    second.root.mkdir()
    write_network(begun, "3d_cascade", tmp_path / "fine.safetensors", seed=1)
    validate_fold(shared, "second", "3d_cascade", tmp_path / "fine.safetensors", (case,), said, second.root)
    assert second.label(case).exists()


def test_a_model_is_put_together(begun: Begun, tmp_path: Path) -> None:
    """Of the folds that are trained, with the first stage of a cascade beside it."""
    made = begin(replace(begun.request, run=tmp_path))
    trained = {"3d_lowres": (0, 1), "3d_cascade": (1,)}
    written = {
        f"{name}_fold_{fold}.safetensors": write_network(made, name, made.run.layout.fold(name, fold).weights, fold)
        for name, folds in trained.items()
        for fold in folds
    }
    cascade = Candidate(name="3d_cascade", configurations=("3d_cascade",), foreground_dice=0.5, label_dice={}, cases=3)
    selection = Selection(inputs_digest="x", candidates=(cascade,), chosen="3d_cascade")
    scores = summarize([], made.dataset.labels)
    out_of_fold = {name: OutOfFold(name, scores, scores, {}, 2) for name in trained}
    stores = {name: made.store(name) for name in trained}
    folder = save_model(made.run, made.plain(), selection, trained, out_of_fold, stores, made.dataset, made.fingerprint)
    assert {path.name: path.read_bytes() for path in (folder / "weights").iterdir()} == written
    model = Model.open(folder, "cpu", backend="torch")
    assert [member.configuration for member in model.description.members] == ["3d_cascade"]
    assert [member.configuration for member in model.description.stages] == ["3d_lowres"]
    image = sitk.ReadImage(str(next((Path(made.request.dataset) / "imagesTs").iterdir())))
    assert model.predict(image).GetSize() == image.GetSize()

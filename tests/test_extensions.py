"""A package that adds a network, a loss, an augmentation and a metric: `examples/extension`, installed apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from builders.steps import begin
from synthetic import write_boxes
from voxfit import FitRequest
from voxfit.core.errors import UsageError
from voxfit.core.extensions import extension, package_of
from voxfit.imaging.labels import Label, Labels
from voxfit.learning.losses import segmentation_loss
from voxfit.learning.sampling import TRAINING, VALIDATION, PatchSampler
from voxfit.planning.plan import Limits
from voxfit.planning.recipes import Recipe

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "extension"
LIMITS = ["--limit", "voxel_budget=4096", "--limit", "plane_voxels=2048", "--limit", "base_features=4"]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages with the example in it."""
    folder, source = tmp_path_factory.mktemp("packages"), tmp_path_factory.mktemp("source")
    for path in EXAMPLE.iterdir():
        if path.is_file():
            (source / path.name).write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(folder), str(source)], check=True, capture_output=True)
    return folder


@pytest.fixture
def installed(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example can be imported in this process."""
    monkeypatch.syspath_prepend(str(packages))


def voxfit(*arguments: object, packages: Path | None = None, code: int = 0) -> str:
    paths = [str(packages)] if packages else []
    paths += [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    done = subprocess.run(
        [sys.executable, "-m", "voxfit", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return " ".join((done.stdout + done.stderr).split())


def small(folder: Path) -> Path:
    """The recipe of the example, for a training of a moment."""
    body = json.loads((EXAMPLE / "recipe.json").read_text())
    path = folder / "recipe.json"
    path.write_text(json.dumps(body | {"folds": 2, "steps_per_epoch": 20, "validation_steps": 1}))
    return path


def test_it_is_trained_scored_and_predicted_with(packages: Path, tmp_path: Path) -> None:
    data, run = write_boxes(tmp_path / "boxes"), tmp_path / "run"
    arguments = (
        "fit",
        data,
        "-o",
        run,
        "--configurations",
        "3d",
        "--folds",
        0,
        "--epochs",
        3,
        *LIMITS,
        "--device",
        "cpu",
    )
    voxfit(*arguments, "--recipe", small(tmp_path), packages=packages)
    model = json.loads((run / "model" / "model.json").read_text())
    assert model["plan"]["network"] == "dilated"
    assert model["network_from"] == "voxfit-extension-example 1.0"
    scores = json.loads((run / "3d" / "cross_validation" / "scores.json").read_text())
    for case in scores["cases"]:
        for item in case["labels"].values():
            sizes = (item["reference_voxels"], item["predicted_voxels"])
            assert item["other"] == {"volume_similarity": pytest.approx(1 - abs(sizes[0] - sizes[1]) / sum(sizes))}
    assert set(scores["mean"]["labels"]["left"]["other"]) == {"volume_similarity"}
    assert "2 of 2" in voxfit("predict", run, data / "imagesTs", "-o", tmp_path / "out", packages=packages)
    evaluate = ("evaluate", tmp_path / "out", data / "labelsTs", "-o", tmp_path / "scores.json")
    voxfit(*evaluate, "--metric", "volume_similarity", packages=packages)
    assert (tmp_path / "scores.csv").read_text().split("\n")[0].endswith(",predicted_ml,volume_similarity")

    said = voxfit("predict", run, data / "imagesTs", "-o", tmp_path / "again", code=1)
    assert "the network 'dilated' is offered by no installed package" in said
    assert "The model was made with voxfit-extension-example 1.0." in said
    by_openvino = ("--backend", "openvino", "--device", "cpu")
    said = voxfit("predict", run, data / "imagesTs", "-o", tmp_path / "again", *by_openvino, packages=packages, code=64)
    assert "The network 'dilated' of another package runs by PyTorch" in said
    voxfit(*evaluate, "--metric", "volume_similarity", code=64)


def test_what_is_not_installed_is_named_before_anything_is_done(tmp_path: Path) -> None:
    data = write_boxes(tmp_path / "boxes")
    said = voxfit("fit", data, "-o", tmp_path / "run", "--recipe", small(tmp_path), code=64)
    assert "the network 'dilated' is offered by no installed package" in said
    assert not (tmp_path / "run").exists()


def test_no_file_names_a_module(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    for name in ("evil", "evil:anything", str(tmp_path / "evil.py"), "os.system"):
        with pytest.raises(UsageError, match="offered by no installed package"):
            extension("loss", name)


@pytest.mark.usefixtures("installed")
def test_a_package_is_known_by_its_name_and_version() -> None:
    assert package_of("loss", "tversky") == "voxfit-extension-example 1.0"
    with pytest.raises(UsageError, match=r"'tversky2'.*Installed packages offer tversky\."):
        package_of("loss", "tversky2")


@pytest.mark.usefixtures("installed")
def test_the_examples_loss_is_dice_where_both_errors_cost_the_same() -> None:
    """With weights of a half, Tversky's index is Dice; with its own, a missed voxel costs more than one too many."""
    loss: Any = extension("loss", "tversky")
    labels = Labels(classes=(Label(name="a", value=1),))
    label = torch.zeros(1, 4, 4, dtype=torch.int16)
    label[0, :2] = 1
    confident = torch.zeros(1, 2, 4, 4)
    confident[:, 1, :2], confident[:, 0, 2:] = 50.0, 50.0
    exact = float(loss(confident, label, labels, per_sample=True, smoothing=1e-5))
    assert exact == pytest.approx(-1, abs=1e-4)
    missing, more = confident.clone(), confident.clone()
    missing[:, :, 0] = torch.tensor([50.0, 0.0])[None, :, None]
    more[:, :, 2] = torch.tensor([0.0, 50.0])[None, :, None]
    assert float(loss(missing, label, labels, per_sample=True, smoothing=1e-5)) == pytest.approx(
        -4 / (4 + 0.7 * 4), abs=1e-4
    )
    assert float(loss(more, label, labels, per_sample=True, smoothing=1e-5)) == pytest.approx(
        -8 / (8 + 0.3 * 4), abs=1e-4
    )
    assert segmentation_loss(confident, label, labels, per_sample=True).ndim == 0


@pytest.mark.usefixtures("installed")
def test_an_added_augmentation_changes_no_other_draw(tmp_path: Path) -> None:
    """Images differ by what was added alone; places, labels and all else stay; validation is not augmented."""
    data = write_boxes(tmp_path / "boxes")
    limits = Limits(voxel_budget=16**3, plane_voxels=2048, base_features=4)
    begun = begin(FitRequest(data, tmp_path / "run", limits=limits, workers=1))
    store, configuration = begun.store("3d"), begun.plan.configurations["3d"]

    def batch(recipe: Recipe, stream: int) -> tuple[torch.Tensor, torch.Tensor]:
        names = sorted(store.manifest.voxels)
        sampler = PatchSampler(store, names, configuration, recipe, labels=begun.plan.labels, channels=1, seed=5)
        return sampler.finish(sampler.batch(stream, 0, 3), torch.device("cpu"))

    plain, more = Recipe(), Recipe(augmentations=("bias_field",))
    for stream in (TRAINING, VALIDATION):
        (image, label), (changed, same_label) = batch(plain, stream), batch(more, stream)
        torch.testing.assert_close(label, same_label, rtol=0, atol=0)
        added = (changed - image).numpy()
        if stream == VALIDATION:
            assert not added.any()
        for sample in added[:, 0]:
            steps = [np.abs(np.diff(sample, axis=axis)).max() for axis in range(3)]
            assert sum(step > 1e-4 for step in steps) == (stream == TRAINING)
    torch.testing.assert_close(batch(more, TRAINING), batch(more, TRAINING), rtol=0, atol=0)

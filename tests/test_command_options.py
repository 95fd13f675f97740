"""What options of the command line do: the same as their counterparts of the library, seen in what is written."""

import io
import json
import re

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from rich.console import Console
from typer.testing import CliRunner

import voxfit
from synthetic import write_boxes
from voxfit.assessment.selection import Candidate, Selection
from voxfit.commands import app
from voxfit.console import ConsoleListener
from voxfit.core.errors import UsageError
from voxfit.core.progress import EpochReport
from voxfit.options import parse_seconds, parse_size
from voxfit.running.collection import CollectionResult, to_markdown
from voxfit.running.request import FitResult
from voxfit.tables import print_collection, score_table


def run(*arguments, code=0):
    """Run a command in this process; errors are raised as they are."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(done.exception, Exception) and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return " ".join(done.output.split())


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A dataset, a run of it with many options, and what PyTorch was told while it trained."""
    root = tmp_path_factory.mktemp("options")
    data = write_boxes(root / "boxes")
    recipe = root / "recipe.json"
    recipe.write_text('{"schema": "voxfit.recipe/2", "folds": 2, "steps_per_epoch": 6, "validation_steps": 1}')
    limits = ("--limit", "voxel_budget=4096", "--limit", "base_features=4")
    seen = set()
    handle = torch.nn.modules.module.register_module_forward_hook(
        lambda *_: seen.add(torch.are_deterministic_algorithms_enabled())
    )
    try:
        run(
            *("fit", data, "-o", root / "run", "--configurations", "3d", "--recipe", recipe, *limits),
            *("--epochs", 3, "--seed", 7, "--group-by", r"box_\d(\d)", "--device", "cpu", "--workers", 1),
            "--deterministic",
        )
    finally:
        handle.remove()
    return data, root / "run", seen


def saved(run_folder, name):
    return json.loads((run_folder / name).read_text())


def test_fit_is_asked_for_what_was_typed(fitted):
    _, folder, seen = fitted
    recipe = saved(folder, "training.json")["recipe"]
    assert recipe["seed"] == 7
    assert recipe["schedule"]["epochs"] == 3
    assert len((folder / "3d" / "fold_0" / "history.jsonl").read_text().splitlines()) == 3
    limits = saved(folder, "plan.json")["limits"]
    assert (limits["voxel_budget"], limits["base_features"]) == (4096, 4)
    assert seen == {True}
    assert not torch.are_deterministic_algorithms_enabled()


def test_groups_of_the_command_line_stay_together(tmp_path):
    data = write_boxes(tmp_path / "boxes", cases=6, test_cases=0)
    for room, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        for number in range(6):
            (data / room / f"box_{number:02}{ending}").rename(data / room / f"p{number // 2}_{number}{ending}")
    run("fit", data, "-o", tmp_path / "run", "--configurations", "2d", "--folds", "0", "--epochs", 1, "--group-by",
        r"p\d", "--device", "cpu", "--workers", 1, "--limit", "plane_voxels=512", "--limit", "base_features=2",
        "--recipe", _short(tmp_path))  # fmt: skip
    for names in saved(tmp_path / "run", "folds.json")["validation"]:
        patients = [name.partition("_")[0] for name in names]
        assert all(patients.count(patient) == 2 for patient in patients)


def _short(folder):
    path = folder / "short.json"
    path.write_text('{"schema": "voxfit.recipe/2", "folds": 2, "steps_per_epoch": 1, "validation_steps": 1}')
    return path


def predicted(folder):
    return {path.name: sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in sorted(folder.glob("*.nii.gz"))}


def by_library(model, data):
    images = {path.name.replace("_0000", ""): path for path in sorted((data / "imagesTs").iterdir())}
    return {name: sitk.GetArrayFromImage(model.predict(sitk.ReadImage(str(path)))) for name, path in images.items()}


def same(first, second):
    assert first.keys() == second.keys()
    return all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("options", "keywords"), [(["--no-mirror"], {"mirror": False}), (["--fast"], {"fast": True})])
def test_predict_looks_as_it_is_told(fitted, tmp_path, options, keywords):
    data, folder, _ = fitted
    usual, wanted = (
        by_library(voxfit.Model.open(folder, "cpu", backend="torch", **some), data) for some in ({}, keywords)
    )
    assert not same(usual, wanted)  # or this test could not fail
    text = run("predict", folder, data / "imagesTs", "-o", tmp_path, "--device", "cpu", "--backend", "torch", *options)
    assert same(predicted(tmp_path), wanted)
    assert ("one fold, no mirroring" in text) == ("--fast" in options)


def test_other_options_make_other_label_maps_of_the_same_images(fitted):
    """So what is there is kept only where it was made in the same way."""
    _, folder, _ = fitted
    ways = ({}, {"mirror": False}, {"fast": True})
    identities = [voxfit.Model.open(folder, "cpu", backend="torch", **way).identity for way in ways]
    assert len(set(identities)) == len(ways)
    assert voxfit.Model.open(folder, "cpu", backend="torch").identity == identities[0]


def test_memory_precision_and_backend_reach_the_model(fitted, tmp_path):
    data, folder, _ = fitted
    command = ("predict", folder, data / "imagesTs", "-o", tmp_path, "--device", "cpu")
    assert "Raise --max-memory." in run(*command, "--max-memory", "1M", code=2)
    assert not list(tmp_path.glob("*.nii.gz"))
    with pytest.raises(voxfit.VoxfitError, match=r"INT8|OpenVINO"):
        run(*command, "--precision", "int8")
    with pytest.raises(UsageError, match="--backend abacus"):
        run(*command, "--backend", "abacus")


def test_label_maps_that_are_there_are_made_again_only_when_asked_for(fitted, tmp_path):
    data, folder, _ = fitted
    command = ("predict", folder, data / "imagesTs", "-o", tmp_path, "--device", "cpu", "--backend", "torch")
    run(*command)

    def written():
        return {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.nii.gz")}

    first = written()
    assert len(first) == 2
    run(*command)
    assert written() == first
    run(*command, "--overwrite")
    again = written()
    assert again.keys() == first.keys()
    assert all(again[name] > first[name] for name in first)


def test_the_tolerance_is_that_of_the_command_line(fitted, tmp_path):
    data, _, _ = fitted
    run("evaluate", data / "labelsTs", data / "labelsTs", "-o", tmp_path / "s.json", "--tolerance", 2.5, "--workers", 1)
    assert saved(tmp_path, "s.json")["tolerance_mm"] == 2.5


def test_datasets_that_failed_are_an_exit_code(tmp_path):
    for name in ("one", "two"):
        data = write_boxes(tmp_path / "data" / name, cases=2, test_cases=0)
        (data / "labelsTr" / "box_00.nii.gz").write_bytes(b"")
    text = run("fit", tmp_path / "data", "-o", tmp_path / "runs", "--epochs", 1, "--workers", 1, code=2)
    assert "error: one:" in text
    assert "error: two:" in text


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("20m", 1200), ("2h", 7200), ("1d", 86400), ("0.5h", 1800)])
def test_times(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize(("text", "size"), [("800M", 800 * 2**20), ("4G", 2**32), ("64k", 2**16), ("0.5TiB", 2**39)])
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["0s", "0.0h", "-1m", "10", "m", "1 w", ""])
def test_times_and_sizes_that_are_none(text):
    with pytest.raises(UsageError, match="--budget"):
        parse_seconds(text)
    with pytest.raises(UsageError, match="--max-memory"):
        parse_size(text.replace("s", "G").replace("h", "M").replace("m", "K"))


def epoch(seconds_left):
    return EpochReport(
        model="3d fold 0",
        epoch=3,
        training_loss=-0.5,
        validation_loss=-0.25,
        class_dice=[0.75, None],
        learning_rate=1e-2,
        seconds=2.0,
        steps_per_second=4.0,
        wait_share=0.125,
        share_done=1.0,
        seconds_left=seconds_left,
        teraflops=None,
        peak_share=None,
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(59, "59 s left"), (125, "2 min 5 s left"), (3665, "1 h 1 min 5 s left")]
)
def test_an_epoch_is_one_line_where_there_is_no_terminal(seconds, text):
    console = Console(file=io.StringIO(), width=200)
    ConsoleListener(console).epoch(epoch(seconds))
    said = " ".join(console.file.getvalue().split())
    assert said.endswith(text)
    assert "3d fold 0 epoch 3 loss -0.500 validation -0.250 Dice 0.750 - rate 1.0e-02 4.00 steps/s" in said


def test_only_marked_rows_stand_out():
    table = score_table("title", ["Dice"], [("a", [0.5], False), ("b", [None], True)])
    assert [bool(row.style) for row in table.rows] == [False, True]
    assert list(table.columns[1].cells) == ["0.5000", "-"]


def test_a_bar_in_the_name_of_a_label_stays_in_its_cell(tmp_path):
    candidate = Candidate(
        name="3d", configurations=("3d",), foreground_dice=0.5, label_dice={"left|right": 0.5}, cases=3
    )
    selection = Selection(inputs_digest="x", candidates=(candidate,), chosen="3d")
    lines = to_markdown({"A|B": FitResult(selection, tmp_path / "model", tmp_path)}).splitlines()
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines] == [3, 3, 3]
    assert r"A\|B: left\|right" in lines[0]


def test_datasets_are_told_in_percent(tmp_path):
    candidate = Candidate(
        name="3d", configurations=("3d",), foreground_dice=0.9, label_dice={"liver": 0.8125, "rare": None}, cases=3
    )
    selection = Selection(inputs_digest="x", candidates=(candidate,), chosen="3d")
    result = FitResult(selection, tmp_path / "model", tmp_path)
    console = Console(file=io.StringIO(), width=200)
    print_collection(console, CollectionResult({"Liver": result}, {}, (tmp_path / "table.md",)))
    assert "81.25" in console.file.getvalue()
    assert "0.81" not in console.file.getvalue()

"""What `status` says of a run, and that its command goes on."""

import json
import shlex
import shutil
import subprocess
import sys

import pytest
from test_fit import request
from test_kept_folds import Stop, Stopping

import voxfit
from builders.steps import begin
from voxfit.cli import main
from voxfit.core.layout import Layout
from voxfit.planning.recipes import Recipe
from voxfit.running.command import FitCommand, record_command
from voxfit.running.status import describe


def said(run):
    return {line.strip().partition(": ")[0]: line.strip().partition(": ")[2] for line in describe(run)}


@pytest.fixture(scope="module")
def interrupted(boxes, tmp_path_factory):
    """A fit that ended in the first epoch of 3d fold 1."""
    run = tmp_path_factory.mktemp("status")
    with pytest.raises(Stop):
        voxfit.fit(request(boxes, run, epochs=2), Stopping("3d fold 1"))
    return run


@pytest.fixture(scope="module")
def finished(interrupted, boxes, tmp_path_factory):
    run = tmp_path_factory.mktemp("finished") / "run"
    shutil.copytree(interrupted, run)
    voxfit.fit(request(boxes, run, epochs=2))
    return run


def test_every_fold_is_listed_after_an_interruption(interrupted, boxes):
    lines = said(interrupted)
    assert lines["2d fold 0"].startswith("trained, 2 epochs")
    assert lines["2d fold 2"] == lines["3d fold 2"] == "not asked for"
    assert lines["3d fold 0"].startswith("trained, 2 epochs")
    assert lines["3d fold 1"].startswith("unfinished, 1 epochs")
    assert "2d validated on 2 of 3 folds" in lines
    assert lines["missing"] == "3d fold 1, cross-validation of 3d, cross-validation of 2d+3d, the choice"
    words = shlex.split(lines["to go on"])
    assert words[:5] == ["voxfit", "fit", str(boxes), "-o", str(interrupted)]
    assert words[words.index("--folds") + 1] == "0,1"
    assert words[words.index("--configurations") + 1] == "2d,3d"


def test_nothing_is_missing_in_the_end(finished):
    lines = said(finished)
    assert "missing" not in lines
    assert "to go on" not in lines
    assert lines["asked for"].startswith("voxfit fit ")
    assert "2d+3d validated on 2 of 3 folds" in lines
    assert f"model in {finished / 'model'}" in lines["chosen"]


def test_the_command_goes_on_to_the_end(interrupted, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    shutil.copytree(interrupted, run)
    words = shlex.split(said(run)["to go on"])
    monkeypatch.setattr(sys, "argv", words)
    main_ended = None
    try:
        main()
    except SystemExit as end:
        main_ended = end.code
    assert main_ended in (None, 0), capsys.readouterr()
    assert "missing" not in said(run)
    weights = "2d/fold_0/weights.safetensors"
    assert (run / weights).read_bytes() == (interrupted / weights).read_bytes()
    assert not (run / "superseded").exists()


def test_what_belongs_to_another_plan_is_told_apart(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    settings = json.loads((run / "training.json").read_text())
    settings["plan"]["configurations"]["3d"]["batch_size"] += 1
    (run / "training.json").write_text(json.dumps(settings))
    lines = said(run)
    assert lines["2d fold 0"].startswith("trained, 2 epochs")
    assert lines["3d fold 0"] == lines["3d fold 1"] == "trained with other settings, not used"
    assert lines["3d"] == "its cross-validation is of other trainings or other folds, not used"
    assert lines["2d+3d"] == "its cross-validation is of other trainings or other folds, not used"
    assert "2d validated on 2 of 3 folds" in lines
    assert "among other trainings" in lines["chosen"]
    assert lines["missing"] == ("3d fold 0, 3d fold 1, cross-validation of 3d, cross-validation of 2d+3d, the choice")


def test_an_edited_plan_is_still_to_be_trained(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    plan = json.loads((run / "plan.json").read_text())
    plan["configurations"]["3d"]["batch_size"] += 1
    (run / "plan.json").write_text(json.dumps(plan))
    assert said(run)["missing"] == "what plan.json was changed to"


def test_a_lost_model_or_report_is_missed(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "report.html").unlink()
    assert said(run)["missing"] == "the report"
    shutil.rmtree(run / "model")
    assert said(run)["missing"] == "the model"


def test_after_a_plan_alone(boxes, tmp_path):
    begin(request(boxes, tmp_path))
    lines = said(tmp_path)
    assert "nothing is trained" in lines
    assert lines["missing"] == "all trainings"
    assert lines["to go on"].startswith("voxfit fit ")


def test_it_needs_no_torch(finished):
    script = (
        "import sys; from pathlib import Path; from voxfit.running.status import describe\n"
        "describe(Path(sys.argv[1])); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, str(finished)], check=True)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"folds": None, "configurations": None, "limits": None, "recipe": Recipe()},
        {"epochs": None, "budget_seconds": 1200.0, "group_by": "^(.*) ?'?$"},
        {"epochs": None, "budget_seconds": 12.345, "deterministic": True, "recipe": Recipe(seed=7)},
    ],
)
def test_the_command_says_what_was_asked(own_boxes, tmp_path, monkeypatch, changes):
    """Typed again, it asks for the same: here of a dataset that ends every fit."""
    asked = request(own_boxes, tmp_path / "asked", **changes)
    (own_boxes / "imagesTr/box_00_0000.nii.gz").write_bytes(b"")
    record_command(asked, Layout(tmp_path / "asked"), accepted=True)
    first = FitCommand.load(tmp_path / "asked/command.json")
    monkeypatch.setattr(sys, "argv", shlex.split(first.command_line(tmp_path / "asked")))
    (tmp_path / "asked/command.json").unlink()
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert FitCommand.load(tmp_path / "asked/command.json") == first
    assert (tmp_path / "asked/recipe_asked.json").exists() == bool(first.recipe_file)

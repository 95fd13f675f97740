"""The command line as a user meets it: exit codes, one message, what is written."""

import csv
import html
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from typer.main import get_command

from bad_input.place import run_voxfit
from synthetic import write_boxes
from voxfit.commands import app
from voxfit.core.errors import UsageError
from voxfit.options import parse_limits
from voxfit.planning.plan import Limits

README = Path(__file__).resolve().parents[1] / "README.md"
COMMAND = [sys.executable, "-m", "voxfit"]
TINY = ["--limit", "voxel_budget=4096", "--limit", "plane_voxels=2048", "--limit", "base_features=4"]


def voxfit(*arguments, code=0, timeout=300):
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def data(tmp_path):
    return write_boxes(tmp_path / "boxes")


def test_help_and_import_are_quick():
    """Twice, the second counts: files are cached then. The target is 0.4 s on an idle machine; CI machines are not."""
    for arguments in ([*COMMAND, "--help"], [sys.executable, "-c", "import voxfit"]):
        times = []
        for _ in range(4):
            begun = time.perf_counter()
            subprocess.run(arguments, capture_output=True, check=True)
            times.append(time.perf_counter() - begun)
        assert min(times[1:]) < 0.8
    heavy = "import sys, voxfit.cli; assert not {'torch', 'numpy', 'SimpleITK', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", heavy], check=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_needs_no_network_runs_where_torch_cannot_be_imported(data, tmp_path, workers):
    """In worker processes, too. A torch that notes who asks for it stands before the real one."""
    asked, run, library = tmp_path / "asked", tmp_path / "run", tmp_path / "library"
    (library / "torch").mkdir(parents=True)
    note = f"open({str(asked)!r}, 'a').writelines(traceback.format_stack())"
    (library / "torch" / "__init__.py").write_text(f"import traceback\n{note}\nraise ImportError('torch')\n")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(library), os.environ.get("PYTHONPATH"))))
    }
    commands = [
        ["check", data, "--workers", workers],
        ["check", data, "--fix", tmp_path / "fixed", "--workers", workers],
        ["plan", data, "-o", run, "--workers", workers],
        ["plan", data, "-o", run, "--prepare", "--workers", workers],
        ["plan", "--fingerprint", run / "fingerprint.json", "-o", tmp_path / "plan.json", "--recipe", "nnunet-v2"],
        ["status", run],
        ["evaluate", data / "labelsTr", data / "labelsTr", "-o", tmp_path / "scores.json", "--workers", workers],
    ]
    for command in commands:
        arguments = [*COMMAND, *map(str, command)]
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
        assert not asked.exists(), asked.read_text()
        assert done.returncode == 0, done.stdout + done.stderr


def test_from_data_to_scores(data, tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    assert "Ready to train" in voxfit("check", data)
    assert "[A3]" in voxfit("plan", data, "-o", run, *TINY)
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"schema": "voxfit.recipe/2", "folds": 3, "steps_per_epoch": 40, "validation_steps": 2}')
    text = voxfit(
        "fit", data, "-o", run, "--configurations", "3d", "--folds", "0", "--epochs", "8", "--recipe", recipe,
        "--device", "cpu",
    )  # fmt: skip
    assert "3d (chosen)" in text
    assert "chosen: 3d" in voxfit("status", run)
    assert "2 of 2" in voxfit("predict", run, data / "imagesTs", "-o", out)
    for image in (data / "imagesTs").iterdir():
        label = sitk.ReadImage(str(out / image.name.replace("_0000", "")))
        reference = sitk.ReadImage(str(image))
        assert label.GetSize() == reference.GetSize()
        assert np.allclose(label.GetOrigin(), reference.GetOrigin())
        assert np.allclose(label.GetDirection(), reference.GetDirection())
        assert np.allclose(label.GetSpacing(), reference.GetSpacing())
    voxfit("evaluate", out, data / "labelsTs", "-o", tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())
    # Bright boxes in noise: a model that trained at all finds them.
    assert scores["mean"]["foreground_dice"] > 0.6
    assert {"dice", "reference_voxels", "predicted_voxels"} <= set(scores["cases"][0]["labels"]["left"])
    assert (tmp_path / "scores.csv").read_text().startswith("case,label,dice")


def test_one_bad_image_does_not_stop_the_others(data, tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"schema": "voxfit.recipe/2", "folds": 2, "steps_per_epoch": 2, "validation_steps": 1}')
    voxfit("fit", data, "-o", run, "--configurations", "2d", "--folds", "0", "--epochs", "1", "--recipe", recipe, *TINY)
    bad = data / "imagesTs" / "box_06_0000.nii.gz"
    bad.write_bytes(bad.read_bytes()[:500])
    text = voxfit("predict", run, data / "imagesTs", "-o", out, code=2)
    assert "box_06_0000.nii.gz" in text
    assert "1 of 2" in text
    assert sorted(path.name for path in out.iterdir()) == [".voxfit", "box_07.nii.gz"]


def _no_description(data):
    (data / "dataset.json").unlink()
    return r"dataset.json: there is no such file"


def _no_label(data):
    (data / "labelsTr" / "box_02.nii.gz").unlink()
    return "box_02: has no label file in labelsTr. Add it"


def _undeclared(data):
    image = sitk.ReadImage(str(data / "labelsTr" / "box_03.nii.gz"))
    image[0, 0, 0] = 9
    sitk.WriteImage(image, str(data / "labelsTr" / "box_03.nii.gz"))
    return "box_03: the label has the value 9, but dataset.json defines 0, 2, 5. Add the label or correct"


def _shape(data):
    sitk.WriteImage(sitk.Image(9, 8, 7, sitk.sitkUInt8), str(data / "labelsTr" / "box_01.nii.gz"))
    return "its label has 7 x 8 x 9. Resample"


def _no_image(data):
    (data / "imagesTr" / "box_00_0000.nii.gz").write_text("this is no image")
    return "box_00_0000.nii.gz): is not a NIfTI file"


def _truncated(data):
    path = data / "imagesTr" / "box_04_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:-2000])
    return "box_04_0000.nii.gz): the compressed data are damaged"


@pytest.mark.parametrize("damage", [_no_description, _no_label, _undeclared, _shape, _no_image, _truncated])
@pytest.mark.parametrize("command", ["check", "fit"])
def test_bad_data_is_one_message_before_any_training(data, tmp_path, damage, command):
    expected = damage(data)
    arguments = [data] if command == "check" else [data, "-o", tmp_path / "run", "--epochs", "1"]
    text = voxfit(command, *arguments, code=1)
    assert expected in " ".join(text.split())
    assert not list(tmp_path.rglob("fold_*"))


def test_all_problems_at_once(data):
    expected = [damage(data) for damage in (_undeclared, _shape, _no_image, _truncated)]
    text = " ".join(voxfit("check", data, code=1).split())
    assert all(part in text for part in expected)
    assert text.endswith("4 problems.")


def test_fewer_cases_than_folds(data, tmp_path):
    for number in range(3, 6):
        (data / "imagesTr" / f"box_{number:02}_0000.nii.gz").unlink()
        (data / "labelsTr" / f"box_{number:02}.nii.gz").unlink()
    assert "3 training cases are fewer than 5 folds. Cross-validation takes 3" in " ".join(
        voxfit("check", data).split()
    )


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        (64, ["fit", "DATA", "-o", "RUN", "--budget", "soon"], "--budget soon: give a number and a unit"),
        (64, ["fit", "DATA", "-o", "RUN", "--epochs", "2", "--budget", "5m"], "exclude each other"),
        (64, ["fit", "DATA", "-o", "RUN", "--device", "abacus"], "--device abacus: not there"),
        (64, ["fit", "DATA", "-o", "RUN", "--recipe", "cake"], "--recipe cake"),
        (64, ["fit", "DATA", "-o", "RUN", "--limit", "speed=1"], "there is no such limit"),
        (64, ["fit", "DATA", "-o", "RUN", "--limit", "voxel_budget=-1"], "voxel_budget"),
        (64, ["plan", "DATA", "--prepare"], "--prepare needs the dataset folder and -o RUN"),
        (64, ["plan"], "Give either a dataset folder or --fingerprint FILE"),
        (64, ["plan", "DATA", "-o", "plan.json"], "-o plan.json: name the run folder"),
        (64, ["plan", "--fingerprint", "DATA/dataset.json", "-o", "DATA/dataset.json"], "would be replaced"),
        (64, ["evaluate", "DATA/labelsTr", "DATA/imagesTs"], "labelsTr"),
        (64, ["predict", "RUN", "DATA", "-o", "RUN", "--max-memory", "much"], "--max-memory much: give a number"),
        (64, ["export", "RUN", "-o", "RUN", "--format", "dicom"], "'--format': 'dicom' is not"),
        (64, ["demo", "-o", "RUN", "--flavour", "pet"], "'--flavour': 'pet' is not one of 'mr', 'ct'"),
        (1, ["predict", "DATA", "DATA", "-o", "RUN"], "holds no model"),
        (1, ["status", "DATA"], "is no run folder"),
        (1, ["plan", "--fingerprint", "DATA/dataset.json"], "dataset.json"),
        (1, ["check", "nowhere"], "nowhere: there is no such folder"),
    ],
)
def test_bad_requests_say_what_to_do(data, tmp_path, code, arguments, message):
    filled = [part.replace("DATA", str(data)).replace("RUN", str(tmp_path / "run")) for part in arguments]
    assert message in " ".join(voxfit(*filled, code=code).split())


COMMANDS = [*(name for name in get_command(app).commands if name != "import"), "import nnunet"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("more", "message"), [(["--no-such-option"], "No such option: --no-such-option"), ([], "")])
def test_a_command_line_that_cannot_be_understood_has_its_own_code(command, more, message):
    """Code 2 says that some images failed and the others are done; nothing was done here."""
    code, text = run_voxfit([*command.split(), *(more or (["x"] * 9 if command != "predict" else ["x"]))])
    assert code == 64
    assert text.startswith(f"error: {message}")
    assert f"`voxfit {command} --help` shows what there is." in text


@pytest.mark.parametrize("line", [["segment"], ["--no-such-option"], ["fit", "x", "-o", "y", "--epochs", "0"]])
def test_so_has_a_line_without_a_command(line):
    code, text = run_voxfit(line)
    assert (code, text.startswith("error: "), line[-1] in text or "--epochs" in text) == (64, True, True)


@pytest.mark.parametrize("line", [[], ["import"]])
def test_without_a_command_the_help_is_shown(line):
    code, text = run_voxfit(line)
    assert (code, "Usage: voxfit" in text, "error:" in text) == (64, True, False)


def test_exit_codes_are_those_of_the_readme():
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", README.read_text(), re.MULTILINE)
    assert [int(code) for code, _ in rows] == [0, 1, 2, 64, 75, 130]
    assert "command line" in dict(rows)["64"]


def test_the_version_is_the_packages():
    assert voxfit("--version") == f"voxfit {version('voxfit')}\n"


def test_a_plan_without_an_output_writes_nothing(data, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    arguments = [*COMMAND, "plan", str(data), *TINY]
    done = subprocess.run(arguments, cwd=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[A3]" in done.stdout
    assert "Nothing was written; -o keeps the plan." in done.stdout
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_plan_of_facts_is_written_where_nothing_is(data, tmp_path):
    run, file = tmp_path / "run", tmp_path / "plan.json"
    voxfit("plan", data, "-o", run, *TINY)
    facts = ["plan", "--fingerprint", run / "fingerprint.json", *TINY]
    assert "Nothing was written" in voxfit(*facts)
    assert f"Written to {file}" in voxfit(*facts, "-o", file)
    assert (
        json.loads(file.read_text())["configurations"] == json.loads((run / "plan.json").read_text())["configurations"]
    )
    file.write_text(edited := file.read_text().replace('"batch_size": ', '"batch_size":  '))
    assert "is there already, perhaps edited by hand" in voxfit(*facts, "-o", file, code=64)
    assert file.read_text() == edited


HOSTILE = ["[/bold] a", '<script>"1"</script>', ":heart: (b|c*", "$(touch x); `x` 'q' & \\d"]
"""Names that mean something to Rich, HTML, JSON, regular expressions or a shell."""


def test_names_are_shown_as_they_are_and_do_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # tables break long names
    data, run = write_boxes(tmp_path / HOSTILE[0].replace("/", "]")), tmp_path / "run [red]"
    body = json.loads((data / "dataset.json").read_text())
    body["labels"] = {"background": 0, HOSTILE[1]: 2, HOSTILE[2]: 5}
    body["channel_names"] = {"0": HOSTILE[0]}
    (data / "dataset.json").write_text(json.dumps(body))
    case = HOSTILE[3].replace("/", "")
    for path in list(data.rglob("box_00*")) + list(data.rglob("box_06*")):
        path.rename(path.with_name(path.name.replace("box_00", case).replace("box_06", case + " 6")))
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"schema": "voxfit.recipe/2", "folds": 2, "steps_per_epoch": 2, "validation_steps": 1}')
    labels = f"labels 2 {HOSTILE[1]}, 5 {HOSTILE[2]}"
    assert labels in voxfit("check", data)
    fitting = ["-o", run, "--recipe", recipe, *TINY, "--group-by", re.escape(case) + r"|box_\d+"]
    text = voxfit("plan", data, *fitting)
    assert data.name in text
    assert f"channel {HOSTILE[0]}: z_score" in text
    text = voxfit("fit", data, *fitting, "--configurations", "2d", "--epochs", "1")
    assert f"Report:  {run / 'report.html'}" in text
    page = (run / "report.html").read_text()
    assert html.escape(HOSTILE[1]) in page
    assert "<script" not in page
    out, scores = tmp_path / "out", tmp_path / "scores.json"
    assert f"written to {out}" in voxfit("predict", run, data / "imagesTs", "-o", out)
    assert {path.name for path in out.glob("*.nii.gz")} == {f"{case} 6.nii.gz", "box_07.nii.gz"}
    assert HOSTILE[1] in voxfit("evaluate", out, data / "labelsTs", "-o", scores)
    assert set(json.loads(scores.read_text())["mean"]["labels"]) == set(HOSTILE[1:3])
    with scores.with_suffix(".csv").open(newline="") as stream:
        assert {row["case"] for row in csv.DictReader(stream)} == {f"{case} 6", "box_07"}
    voxfit("export", run, "-o", tmp_path / "theirs")
    (described,) = (tmp_path / "theirs").glob("nnUNet_raw/*/dataset.json")
    assert set(json.loads(described.read_text())["labels"]) == {"background", *HOSTILE[1:3]}
    assert described.parent.name == "Dataset900_bolda"
    assert not list(tmp_path.rglob("x"))


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ('voxel_budget=4096, "min_edge": 3', "give one number, such as voxel_budget=2097152"),
        ("voxel_budget=4096}", "give one number"),
        ("voxel_budget", "give one number"),
        ("voxel_budget=" + "[" * 100_000, "give one number"),
        ('voxel_budget={"min_edge": 3}', "voxel_budget: Input should be a valid integer"),
        ("voxel_budget=true", "voxel_budget: Input should be a valid integer"),
        ("dataset_fraction=NaN", "dataset_fraction: Input should be"),
        ('min_edge": 3, "voxel_budget=4096', "there is no such limit"),
    ],
)
def test_a_limit_is_one_number(pair, message):
    with pytest.raises(UsageError, match="--limit") as caught:
        parse_limits([pair])
    assert message in str(caught.value)


def test_limits_are_what_was_written():
    assert parse_limits(None) is parse_limits([]) is None
    found = parse_limits(["voxel_budget=4096", "dataset_fraction=0.5", "max_features_2d=null"])
    assert found == Limits(voxel_budget=4096, dataset_fraction=0.5, max_features_2d=None)
    with pytest.raises(UsageError, match="min_edge is given twice"):
        parse_limits(["min_edge=3", "min_edge=4"])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_an_interruption_is_one_sentence_and_the_next_run_goes_on(data, tmp_path, number, code):
    run = tmp_path / "run"
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"schema": "voxfit.recipe/2", "folds": 2, "steps_per_epoch": 20, "validation_steps": 1}')
    arguments = [
        "fit", data, "-o", run, "--configurations", "3d", "--folds", "0", "--epochs", "6", "--recipe", recipe, *TINY,
    ]  # fmt: skip
    process = subprocess.Popen([*COMMAND, *map(str, arguments)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(run.glob("3d/fold_0.part-*/checkpoint/*/epoch_*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    _, text = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Interrupted. Everything finished is kept" in " ".join(text.split())
    assert "Traceback" not in text
    assert not (run / "lock.json").exists()
    assert re.search(r"3d fold 0: goes on after (epoch|step)", " ".join(voxfit(*arguments).split()))

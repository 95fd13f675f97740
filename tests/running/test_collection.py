"""Several datasets in one go, and the table of all of them."""

import csv
import io
import shutil

import pytest
from test_fit import request

from voxfit.core.errors import UsageError
from voxfit.core.progress import Listener
from voxfit.running.collection import datasets_in, fit_all
from voxfit.running.command import FitCommand


def test_one_after_another_with_one_table(boxes, tmp_path):
    for name in ("one", "two", "broken"):
        shutil.copytree(boxes, tmp_path / "data" / name)
    (tmp_path / "data" / "broken" / "labelsTr" / "box_00.nii.gz").write_bytes(b"")
    (tmp_path / "data" / "notes").mkdir()
    found = datasets_in(tmp_path / "data")
    assert [path.name for path in found] == ["broken", "one", "two"]
    assert datasets_in(boxes) == []

    done = fit_all(found, request("", tmp_path / "runs", folds=(0,), epochs=1), Listener())
    assert list(done.results) == ["one", "two"]
    assert "box_00" in str(done.failures["broken"])

    rows = list(csv.DictReader(io.StringIO((tmp_path / "runs" / "table.csv").read_text())))
    assert len(rows) == 3 * 2 * 2  # candidates, datasets, labels
    for row in rows:
        selection = done.results[row["dataset"]].selection
        candidate = next(item for item in selection.candidates if item.name == row["model"])
        assert float(row["dice"]) == pytest.approx(candidate.label_dice[row["label"]])
        assert bool(int(row["chosen"])) == (row["model"] == selection.chosen)

    lines = (tmp_path / "runs" / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["2d", "3d", "2d+3d"]
    for position, name in enumerate(("one", "two")):
        chosen = done.results[name].selection.chosen
        for line in lines[2:]:
            cells = [cell.strip() for cell in line.split("|")[2:-1]]
            assert cells[2 * position].startswith("**") == (line.split("|")[1].strip() == chosen)


def test_a_budget_is_shared_equally(boxes, tmp_path):
    """Whatever becomes of the datasets: these cannot be read."""
    for name in ("one", "two", "three"):
        shutil.copytree(boxes, tmp_path / "data" / name)
        (tmp_path / "data" / name / "imagesTr" / "box_00_0000.nii.gz").write_bytes(b"")
    asked = request("", tmp_path / "runs", epochs=None, budget_seconds=90.0)
    done = fit_all(datasets_in(tmp_path / "data"), asked, Listener())
    assert len(done.failures) == 3
    for name in ("one", "two", "three"):
        command = FitCommand.load(tmp_path / "runs" / name / "command.json")
        assert command.budget_seconds == 30.0
        assert "--budget 30s" in command.command_line(tmp_path)


@pytest.mark.parametrize("where", ["", "one"])
def test_no_run_of_a_collection_is_in_a_dataset(boxes, tmp_path, where):
    for name in ("one", "two"):
        shutil.copytree(boxes, tmp_path / "data" / name)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="is in the dataset"):
        fit_all(datasets_in(tmp_path / "data"), request("", tmp_path / "data" / where), Listener())
    assert sorted(tmp_path.rglob("*")) == before

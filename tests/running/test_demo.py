"""The demonstration runs through on both flavours, with less time than `make demo` gives it."""

import json

import pytest

from voxfit.core.progress import Listener
from voxfit.running.demo import run_demo


@pytest.mark.parametrize("flavour", ["mr", "ct"])
def test_it_learns_something_in_less_than_a_minute(tmp_path, flavour):
    result = run_demo(tmp_path, flavour, 2, "cpu", Listener())
    assert len(result.scores.cases) == 4
    history = (result.fit.run / "3d" / "fold_0" / "history.jsonl").read_text().splitlines()
    first, last = (json.loads(history[index])["validation_loss"] for index in (0, -1))
    assert last < first
    assert all(path.exists() for path in result.paths.values())
    assert "<html" in result.paths["report"].read_text()

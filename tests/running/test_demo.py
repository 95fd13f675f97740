"""The demonstration runs through on both flavours, with less time than `make demo` gives it."""

import pytest

from voxfit.core.listening import Listener
from voxfit.running.demo import run_demo


@pytest.mark.parametrize("flavour", ["mr", "ct"])
def test_it_learns_something_in_half_a_minute(tmp_path, flavour):
    result = run_demo(tmp_path, flavour, 30.0, "cpu", Listener())
    assert len(result.scores.cases) == 4
    assert result.scores.mean.foreground_dice > 0.3
    assert all(path.exists() for path in result.paths.values())

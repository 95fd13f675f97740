"""The short form of `make soak`: eight kills."""

import os
import subprocess
import sys

import pytest
from commands import write_inputs

from soak import soak, summary, table

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and process groups")


def test_killed_at_any_moment_the_same_command_ends_in_the_same_bytes(tmp_path):
    kills = soak(tmp_path / "soak", 8, 7, of_fit=0.75, images=6, folds=2, steps=4, epochs=2)
    assert [kill.command for kill in kills] == ["fit"] * 6 + ["predict"] * 2
    assert all(kill.good for kill in kills), f"{summary(kills)}\n{table(kills)}"


def test_of_two_fits_at_once_one_goes_on(tmp_path):
    arguments = [*write_inputs(tmp_path / "inputs", 0, 2, 2, 1), "--folds", "0", "--configurations", "2d"]
    command = [sys.executable, "-m", "voxfit", *arguments, "-o", str(tmp_path / "run")]
    rivals = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    texts = [" ".join(rival.communicate()[0].split()) for rival in rivals]
    assert sorted(rival.returncode for rival in rivals) == [0, 1], texts
    winner, loser = sorted(range(2), key=lambda index: rivals[index].returncode)
    assert f"process {rivals[winner].pid} on" in texts[loser]
    assert "has been writing here since" in texts[loser]

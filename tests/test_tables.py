"""What the tables on the screen say of bad results."""

import io
import re

import pytest
from rich.console import Console

from voxfit.assessment.selection import Candidate, choose
from voxfit.tables import print_selection

GREEN, RED = re.compile(r"\x1b\[1;32m[^\x1b]*"), re.compile(r"\x1b\[1;31m[^\x1b]*")


def shown(selection):
    stream = io.StringIO()
    print_selection(Console(file=stream, force_terminal=True, color_system="standard", width=200), selection)
    return stream.getvalue()


def candidate(name, dice, missed):
    return Candidate(
        name=name,
        configurations=(name,),
        foreground_dice=sum(dice.values()) / len(dice),
        label_dice=dice,
        cases=4,
        missed=missed,
    )


def test_a_label_that_was_never_found_is_no_success():
    best = candidate("3d", {"liver": 0.9, "kidney": 0.0}, {"liver": (0, 4), "kidney": (3, 3)})
    text = shown(choose([best], "", (1, 5)))
    assert "0.9000" in " ".join(GREEN.findall(text))
    assert "0.0000" not in " ".join(GREEN.findall(text))
    assert "0.0000, missed in 3 of 3" in " ".join(RED.findall(text))


@pytest.mark.parametrize(
    ("folds", "words"),
    [
        ((1, 5), "one fold: validated on 4 cases"),
        ((2, 5), "2 of 5 folds: validated on 4 cases"),
        ((5, 5), "cross-validated: 4 cases"),
    ],
)
def test_one_fold_is_no_cross_validation(folds, words):
    printed = shown(choose([candidate("3d", {"liver": 0.9}, {})], "", folds))
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", printed).split())
    assert words in text
    assert ("ross-validat" in text) == (folds == (5, 5))

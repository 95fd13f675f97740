"""Which candidate is chosen, on scores written down by hand."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxfit.assessment.selection import Candidate, choose, pairs

MODELS = ("2d", "3d", "3d_lowres", "3d_cascade")


def candidate(name, dice):
    return Candidate(name=name, configurations=tuple(name.split("+")), foreground_dice=dice, label_dice={}, cases=3)


def test_the_highest_dice_wins():
    names = ["2d", "3d", "2d+3d"]
    for best in names:
        found = choose([candidate(name, 0.8 + 0.1 * (name == best)) for name in names], "")
        assert (found.chosen, found.winner().foreground_dice) == (best, pytest.approx(0.9))


def test_on_a_tie_one_network_beats_two_and_the_first_beats_the_second():
    assert choose([candidate("2d+3d", 0.8), candidate("3d", 0.8)], "").chosen == "3d"
    assert choose([candidate("2d", 0.8), candidate("3d", 0.8), candidate("2d+3d", 0.8)], "").chosen == "2d"


def test_a_class_that_no_case_has_is_no_reason():
    """A candidate whose score does not exist loses against any that has one, and wins where there is no other."""
    assert choose([candidate("2d", None), candidate("3d", 0.0)], "").chosen == "3d"
    assert choose([candidate("2d", None), candidate("3d", None)], "").chosen == "2d"


def test_the_first_stage_is_reported_and_not_chosen():
    found = choose([candidate("3d_lowres", 0.99), candidate("3d", 0.5)], "")
    assert found.chosen == "3d"
    assert [item.name for item in found.candidates] == ["3d_lowres", "3d"]
    assert choose([candidate("3d_lowres", 0.7)], "").chosen == "3d_lowres"  # nothing else was trained


def test_the_pairs_are_those_of_the_paper():
    assert pairs(MODELS) == [("2d", "3d"), ("2d", "3d_cascade"), ("3d", "3d_cascade")]
    assert pairs(("2d",)) == []


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=6, max_size=6), st.randoms())
def test_nothing_eligible_is_better_than_what_is_chosen(dices, random):
    names = [
        *MODELS[:2],
        MODELS[3],
        *("+".join(pair) for pair in itertools.combinations(("2d", "3d", "3d_cascade"), 2)),
    ]
    found = [candidate(name, dice) for name, dice in zip(names, dices, strict=True)]
    random.shuffle(found)
    winner = choose(found, "").winner()
    assert all((item.foreground_dice or 0) <= (winner.foreground_dice or 0) for item in found)

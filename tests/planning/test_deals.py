"""Splits in which no exchange of two cases helps, and classes that no split can help."""

import pytest

from voxfit.imaging.files import Case
from voxfit.planning.folds import split


@pytest.mark.parametrize("seed", range(10))
def test_the_one_good_deal_is_found(seed):
    """Case 4 shares a class with each of three others, so it must stand with case 2: a star of four classes."""
    cases = [Case(name=str(number), images=()) for number in range(5)]
    holders = ("14", "34", "234", "04")
    classes = {case.name: {index for index, names in enumerate(holders) if case.name in names} for case in cases}
    found = split(cases, 2, seed, classes=classes)
    assert found.unseen(classes) == {}
    assert ("2", "4") in found.validation


def test_a_class_of_one_case_changes_nothing():
    """It is missing from the training part of its fold whatever is dealt."""
    cases = [Case(name=f"case {number:02}", images=()) for number in range(20)]
    classes = {case.name: {1} for case in cases} | {"case 07": {1, 2}}
    assert split(cases, 5, 0, classes=classes) == split(cases, 5, 0)

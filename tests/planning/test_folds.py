from __future__ import annotations

from collections import Counter
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxfit.imaging.dataset import Dataset
from voxfit.imaging.files import Case
from voxfit.planning.folds import Folds, split

cases = st.lists(
    st.builds(
        Case, name=st.text("abcdef", min_size=1), images=st.just(("x",)), group=st.sampled_from(["", "", "p", "q"])
    ),
    min_size=2,
    max_size=30,
    unique_by=lambda case: case.name,
)


@given(cases, st.integers(2, 6), st.integers(0, 5))
def test_every_case_is_validated_once_and_groups_stay_together(drawn: list[Case], folds: int, seed: int) -> None:
    result = split(drawn, folds, seed)
    validated = [name for names in result.validation for name in names]
    assert Counter(validated) == Counter(case.name for case in drawn)
    groups = {case.name: case.group or f"alone {case.name}" for case in drawn}
    assert len(result.validation) == min(folds, len(set(groups.values())))
    of_fold = [{groups[name] for name in names} for names in result.validation]
    for fold, names in enumerate(result.validation):
        assert names
        assert sorted([*names, *result.training(fold)]) == sorted(groups)
        assert all(not of_fold[fold] & of_fold[other] for other in range(len(of_fold)) if other != fold)
    # Folds hold equally many groups.
    sizes = [len(found) for found in of_fold]
    assert max(sizes) - min(sizes) <= 1


@given(cases, st.integers(2, 6), st.integers(0, 5), st.data())
def test_the_split_hangs_on_cases_and_seed_not_on_their_order(
    drawn: list[Case], folds: int, seed: int, data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(drawn))
    result = split(drawn, folds, seed)
    assert split(shuffled, folds, seed) == result
    assert split(drawn, folds, seed + 1).inputs_digest != result.inputs_digest
    assert split(drawn[1:], folds, seed).inputs_digest != result.inputs_digest


def test_another_seed_is_another_split(tmp_path: Path) -> None:
    many = [Case(name=f"case {number}", images=("x",)) for number in range(50)]
    splits = {split(many, 5, seed).validation for seed in range(5)}
    assert len(splits) == 5
    split(many, 5, 0).save(tmp_path / "folds.json")
    assert Folds.load(tmp_path / "folds.json") == split(many, 5, 0)


@pytest.mark.parametrize("seed", [0, 1])
def test_no_heart_is_on_both_sides(shared_data: Path, seed: int) -> None:
    found = Dataset.open(shared_data / "Dataset027_Cardiac", r"^(.*)_E[DS]$")
    result = split(found.cases, 5, seed)
    assert sorted(len(names) for names in result.validation) == [8, 10, 10, 10, 10]
    for fold, names in enumerate(result.validation):
        assert not {name[:-3] for name in names} & {name[:-3] for name in result.training(fold)}


classes_of_few = st.lists(st.frozensets(st.integers(1, 4), max_size=3), min_size=2, max_size=6)


def lost(result: Folds, classes: dict[str, frozenset[int]]) -> int:
    """Pairs of fold and class where no training case of the fold has the class, though a case has it."""
    every = frozenset[int]().union(*classes.values())
    return sum(
        not any(index in classes[name] for name in result.training(fold))
        for fold in range(len(result.validation))
        for index in every
    )


@given(classes_of_few, st.integers(2, 4), st.integers(0, 3), st.booleans())
def test_no_split_leaves_fewer_classes_out_of_training(
    drawn: list[frozenset[int]], folds: int, seed: int, paired: bool
) -> None:
    """By all splits that there are: of every order of the groups, cut as folds are."""
    names = [f"case {number}" for number in range(len(drawn))]
    grouped = [
        Case(name=name, images=(), group="pair" if paired and number < 2 and len(names) > 2 else "")
        for number, name in enumerate(names)
    ]
    classes = dict(zip(names, drawn, strict=True))
    result = split(grouped, folds, seed, classes=classes)

    groups: dict[str, list[str]] = {}
    for case in grouped:
        groups.setdefault(case.group or case.name, []).append(case.name)
    count = min(folds, len(groups))
    sizes = [len(groups) // count + (fold < len(groups) % count) for fold in range(count)]
    fewest = len(names) * 10
    for order in permutations(sorted(groups)):
        parts, rest = [], list(order)
        for size in sizes:
            parts.append(tuple(name for group in rest[:size] for name in groups[group]))
            rest = rest[size:]
        fewest = min(fewest, lost(Folds(inputs_digest="", validation=tuple(parts)), classes))
    assert lost(result, classes) == fewest

    # The rules of any split hold, and where the plain one loses nothing that could be kept, it is that one.
    assert sorted(name for part in result.validation for name in part) == sorted(names)
    of_group = {name: fold for fold, part in enumerate(result.validation) for name in part}
    assert all(len({of_group[name] for name in group}) == 1 for group in groups.values())
    in_groups = [len({case.group or case.name for case in grouped if of_group[case.name] == f}) for f in range(count)]
    assert sorted(in_groups) == sorted(sizes)
    plain = split(grouped, folds, seed)
    if lost(plain, classes) == fewest:
        assert result.validation == plain.validation
    assert result == split(list(reversed(grouped)), folds, seed, classes=classes)


def test_rare_classes_among_many_cases_are_in_every_training_part() -> None:
    """Two cases for each of forty classes: dealt blindly, some pair is almost surely validated together."""
    many = [Case(name=f"case {number:03}", images=()) for number in range(400)]
    classes = {case.name: ({number // 2} if number < 80 else {99}) for number, case in enumerate(many)}
    assert split(many, 5, 0).unseen(classes)
    found = split(many, 5, 0, classes=classes)
    assert not found.unseen(classes)
    assert [len(part) for part in found.validation] == [80] * 5
    assert found.inputs_digest != split(many, 5, 0).inputs_digest


def test_what_labels_hold_does_not_matter_where_the_plain_split_serves() -> None:
    """Trainings stay when a label is corrected that does not change where cases stand."""
    many = [Case(name=f"case {number:03}", images=()) for number in range(50)]
    assert split(many, 5, 0, classes={case.name: {1, 2} for case in many}) == split(many, 5, 0)


def test_a_class_of_one_case_is_named_where_it_cannot_be_trained() -> None:
    three = [Case(name=name, images=()) for name in "abc"]
    classes: dict[str, set[int]] = {"a": {1, 2}, "b": set(), "c": set()}
    found = split(three, 5, 0, classes=classes)
    fold = next(fold for fold, part in enumerate(found.validation) if part == ("a",))
    assert found.unseen(classes) == {fold: (1, 2)}
    assert found.blind(classes) == {fold}
    assert not found.blind({})
    assert not found.unseen({})
    assert not found.blind({**classes, "b": {1}})


def test_a_split_that_the_dataset_brings_stays() -> None:
    three = [Case(name=name, images=()) for name in "abc"]
    given_split = ((("a", "b"), ("c",)), (("c",), ("a", "b")))
    classes = {"a": {1}, "b": {1}, "c": set[int]()}
    found = split(three, 5, 0, given_split, classes)
    assert found == split(three, 5, 0, given_split)
    assert found.unseen(classes) == {1: (1,)}

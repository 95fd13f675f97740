from __future__ import annotations

from collections import Counter
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
    assert split(drawn, folds, seed + 1).made_from != result.made_from
    assert split(drawn[1:], folds, seed).made_from != result.made_from


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

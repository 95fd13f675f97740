"""The split of the training cases (method.md [T1]): seeded, by group, stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from voxfit.core.records import Record, digest_of
from voxfit.imaging.files import Case


class Folds(Record):
    """The split of the training cases.

    Attributes:
        made_from: digest of cases, number of folds and seed, or of the split that the dataset brought.
        validation: names of the validation cases of each fold.
        given: names of the training cases of each fold, where the dataset brought a split; empty: all others.
    """

    schema_name: ClassVar[str] = "voxfit.folds/1"
    made_from: str
    validation: tuple[tuple[str, ...], ...]
    given: tuple[tuple[str, ...], ...] = ()

    def training(self, fold: int) -> tuple[str, ...]:
        """Training cases of a fold, in order of name."""
        if self.given:
            return self.given[fold]
        return tuple(sorted(name for other, names in enumerate(self.validation) if other != fold for name in names))


Splits = Sequence[tuple[tuple[str, ...], tuple[str, ...]]]
"""Names of training and of validation cases, for each fold."""


def split(cases: Sequence[Case], folds: int, seed: int, given: Splits = ()) -> Folds:
    """Deal the groups of cases (a case without a group is its own) to folds, at random but always the same.

    Args:
        cases: the training cases.
        folds: how many; fewer where there are fewer groups.
        seed: of the shuffle.
        given: the split that the dataset brings; then nothing is dealt.
    """
    origin = split_origin(cases, folds, seed, given)
    if given:
        training, validation = zip(*given, strict=True)
        return Folds(made_from=origin, validation=validation, given=training)
    groups: dict[str, list[str]] = {}
    for case in cases:
        groups.setdefault(f"group {case.group}" if case.group else f"case {case.name}", []).append(case.name)
    names = sorted(groups)
    order = np.random.default_rng([seed]).permutation(len(names))
    parts = np.array_split(order, min(folds, len(names)))
    return Folds(
        made_from=origin,
        validation=tuple(tuple(sorted(case for index in part for case in groups[names[index]])) for part in parts),
    )


def split_origin(cases: Sequence[Case], folds: int, seed: int, given: Splits = ()) -> str:
    """Digest of what a split is made from."""
    if given:
        return digest_of(given)
    return digest_of([sorted([case.name, case.group] for case in cases), folds, seed])

"""The split of the training cases (method.md [T1]): seeded, by group, stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from voxfit.core.records import Record, digest_of
from voxfit.imaging.dataset import Case


class Folds(Record):
    """Names of the validation cases of each fold; all others are its training cases."""

    schema_name: ClassVar[str] = "voxfit.folds/1"
    made_from: str
    validation: tuple[tuple[str, ...], ...]

    def training(self, fold: int) -> tuple[str, ...]:
        """Training cases of a fold, in order of name."""
        return tuple(sorted(name for other, names in enumerate(self.validation) if other != fold for name in names))


def split(cases: Sequence[Case], folds: int, seed: int) -> Folds:
    """Deal the groups of cases (a case without a group is its own) to folds, at random but always the same.

    Args:
        cases: the training cases.
        folds: how many; fewer where there are fewer groups.
        seed: of the shuffle.
    """
    groups: dict[str, list[str]] = {}
    for case in cases:
        groups.setdefault(f"group {case.group}" if case.group else f"case {case.name}", []).append(case.name)
    names = sorted(groups)
    order = np.random.default_rng([seed]).permutation(len(names))
    parts = np.array_split(order, min(folds, len(names)))
    return Folds(
        made_from=split_origin(cases, folds, seed),
        validation=tuple(tuple(sorted(case for index in part for case in groups[names[index]])) for part in parts),
    )


def split_origin(cases: Sequence[Case], folds: int, seed: int) -> str:
    """Digest of what a split is made from."""
    return digest_of([sorted([case.name, case.group] for case in cases), folds, seed])

"""The split of the training cases (method.md [T1]): seeded, by group, stored; no class is kept from a training part."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import product
from typing import ClassVar

import numpy as np

from voxfit.core.records import Made, digest_of
from voxfit.imaging.files import Case

_DEALS = 50
"""Splits that are tried where a class would be missing from a training part."""

Splits = Sequence[tuple[tuple[str, ...], tuple[str, ...]]]
"""Names of training and of validation cases, for each fold."""

Classes = Mapping[str, Collection[int]]
"""The indices of the foreground classes that each case has, by name; empty where nobody looked."""


class Folds(Made):
    """The split of the training cases.

    Attributes:
        inputs_digest: digest of cases, number of folds and seed, or of the split that the dataset brought.
        validation: names of the validation cases of each fold.
        given: names of the training cases of each fold, where the dataset brought a split; empty: all others.
    """

    schema_name: ClassVar[str] = "voxfit.folds/2"
    inputs_digest: str
    validation: tuple[tuple[str, ...], ...]
    given: tuple[tuple[str, ...], ...] = ()

    def training(self, fold: int) -> tuple[str, ...]:
        """Training cases of a fold, in order of name."""
        if self.given:
            return self.given[fold]
        return tuple(sorted(name for other, names in enumerate(self.validation) if other != fold for name in names))

    def unseen(self, classes: Classes) -> dict[int, tuple[int, ...]]:
        """The classes that some case has but no training case of a fold, for each fold that has such."""
        everywhere, parts = _union(classes, classes), [self.training(fold) for fold in range(len(self.validation))]
        missing = {fold: everywhere - _union(classes, names) for fold, names in enumerate(parts) if names}
        return {fold: tuple(sorted(found)) for fold, found in missing.items() if found}

    def blind(self, classes: Classes) -> frozenset[int]:
        """The folds whose training cases have no foreground at all: their networks learn to answer background."""
        everywhere = tuple(sorted(_union(classes, classes)))
        return frozenset(fold for fold, missing in self.unseen(classes).items() if missing == everywhere)


def split(cases: Sequence[Case], folds: int, seed: int, given: Splits = (), classes: Classes | None = None) -> Folds:
    """Deal the groups of cases (a case without a group is its own) to folds, at random but always the same.

    Where a class would be missing from the training part of a fold, because all groups that have it are validated
    there, groups are exchanged between folds, and dealt again if that does not suffice.

    Args:
        cases: the training cases.
        folds: how many; fewer where there are fewer groups.
        seed: of the shuffle.
        given: the split that the dataset brings; then nothing is dealt.
        classes: that cases have.
    """
    if given:
        training, validation = zip(*given, strict=True)
        return Folds(inputs_digest=digest_of(given), validation=validation, given=training)
    groups: dict[str, list[str]] = {}
    for case in cases:
        groups.setdefault(f"group {case.group}" if case.group else f"case {case.name}", []).append(case.name)
    names = sorted(groups)
    holders = _holders([_union(classes or {}, groups[name]) for name in names])
    fold_of = _deal(len(names), folds, [seed])
    inputs_digest = [sorted([case.name, case.group] for case in cases), folds, seed]
    if _lost(holders, fold_of):  # else it is the plain split, whatever the labels hold
        inputs_digest += [sorted(sorted(names[group] for group in found) for found in holders)]
        fold_of = _spread(holders, len(names), folds, seed)
    return Folds(
        inputs_digest=digest_of(inputs_digest),
        validation=tuple(
            tuple(sorted(case for name, at in zip(names, fold_of, strict=True) if at == fold for case in groups[name]))
            for fold in range(max(fold_of) + 1)
        ),
    )


def _union(classes: Classes, names: Collection[str]) -> set[int]:
    return {index for name in names for index in classes.get(name, ())}


def _holders(classes: Sequence[Collection[int]]) -> list[tuple[int, ...]]:
    """For each class that can be in every training part: the groups that have it, which are two at least."""
    every = sorted({index for found in classes for index in found})
    holders = [tuple(group for group, found in enumerate(classes) if index in found) for index in every]
    return [found for found in holders if len(found) > 1]


def _deal(groups: int, folds: int, seed: Sequence[int]) -> list[int]:
    """The fold of each group: the shuffled groups in as many parts of about equal size."""
    fold_of = np.zeros(groups, int)
    order = np.random.default_rng(seed).permutation(groups)
    for fold, part in enumerate(np.array_split(order, min(folds, groups))):
        fold_of[part] = fold
    return fold_of.tolist()


def _lost(holders: Sequence[tuple[int, ...]], fold_of: Sequence[int]) -> list[tuple[int, ...]]:
    """Those of the holders that are all in one fold."""
    return [found for found in holders if len({fold_of[group] for group in found}) == 1]


def _spread(holders: Sequence[tuple[int, ...]], groups: int, folds: int, seed: int) -> list[int]:
    """The fold of each group, with as few classes as can be found that are missing from a training part."""
    best: list[int] = []
    for attempt in range(_DEALS):
        fold_of = _deal(groups, folds, [seed, attempt] if attempt else [seed])
        while _exchange(holders, fold_of):
            pass
        if not best or len(_lost(holders, fold_of)) < len(_lost(holders, best)):
            best = fold_of
        if not _lost(holders, best):
            break
    return best


def _exchange(holders: Sequence[tuple[int, ...]], fold_of: list[int]) -> bool:
    """Exchange two groups so that fewer classes are lost; False where no two do that."""
    of_group: dict[int, set[int]] = {}
    for index, found in enumerate(holders):
        for group in found:
            of_group.setdefault(group, set()).add(index)
    for lost in _lost(holders, fold_of):
        for one, other in product(lost, range(len(fold_of))):
            if fold_of[one] == fold_of[other]:
                continue
            touched = [holders[index] for index in of_group[one] | of_group.get(other, set())]
            before = len(_lost(touched, fold_of))
            fold_of[one], fold_of[other] = fold_of[other], fold_of[one]
            if len(_lost(touched, fold_of)) < before:
                return True
            fold_of[one], fold_of[other] = fold_of[other], fold_of[one]
    return False

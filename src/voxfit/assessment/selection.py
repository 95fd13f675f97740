"""Which model or ensemble is used: that of the highest mean foreground Dice in cross-validation (method.md [I5])."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from voxfit.core.records import Made, Record

REPORTED_ONLY = "3d_lowres"
"""The first stage of the cascade is reported, but never chosen."""


class Candidate(Record):
    """A model or an ensemble, and what its cross-validation says.

    Attributes:
        name: the configurations joined by "+".
        configurations: one, or two whose probabilities are averaged.
        foreground_dice: mean over labels of the mean over cases; None where nothing could be scored.
        label_dice: the mean over cases of each label, by name.
        cases: how many were scored.
        missed: in how many cases nothing of a label was found, and how many have it, by name.
    """

    name: str
    configurations: tuple[str, ...]
    foreground_dice: float | None
    label_dice: dict[str, float | None]
    cases: int
    missed: dict[str, tuple[int, int]] = Field(default_factory=dict)


class Selection(Made):
    """All candidates and the chosen one; `folds` says how many folds were validated, of how many (0: not known)."""

    schema_name: ClassVar[str] = "voxfit.selection/2"
    inputs_digest: str
    candidates: tuple[Candidate, ...]
    chosen: str
    folds: tuple[int, int] = (0, 0)

    @property
    def how(self) -> str:
        """On what the scores were measured, in words."""
        done, total = self.folds
        cases = f"{self.winner().cases} case{'s' * (self.winner().cases != 1)}"
        if done < total:
            return f"{'one fold' if done == 1 else f'{done} of {total} folds'}: validated on {cases}"
        return f"cross-validated: {cases}"

    def winner(self) -> Candidate:
        """The chosen candidate."""
        return next(candidate for candidate in self.candidates if candidate.name == self.chosen)


def pairs(configurations: Sequence[str]) -> list[tuple[str, str]]:
    """The ensembles that are compared: every two of the models, the first stage of the cascade left out."""
    return list(itertools.combinations([name for name in configurations if name != REPORTED_ONLY], 2))


def choose(candidates: Sequence[Candidate], inputs_digest: str, folds: tuple[int, int] = (0, 0)) -> Selection:
    """Take the candidate of highest Dice; on a tie the one with fewer networks, then the first.

    Args:
        candidates: in the order in which they are reported.
        inputs_digest: digest of what they were computed from.
        folds: how many were validated, and how many there are.
    """
    eligible = [candidate for candidate in candidates if candidate.name != REPORTED_ONLY] or list(candidates)
    best = max(
        eligible,
        key=lambda candidate: (
            -1.0 if candidate.foreground_dice is None else candidate.foreground_dice,
            -len(candidate.configurations),
        ),
    )
    return Selection(inputs_digest=inputs_digest, candidates=tuple(candidates), chosen=best.name, folds=folds)

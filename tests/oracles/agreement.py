"""How far two segmentations of the same images agree, and the table of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peer import Cost


@dataclass(frozen=True)
class Agreement:
    """Of all cases together.

    Attributes:
        cases: how many.
        voxels: of their images.
        different: voxels that differ.
        least: the share of equal voxels in the case that agrees least.
        dice: between the two, of each label that occurs.
    """

    cases: int
    voxels: int
    different: int
    least: float
    dice: dict[int, float]

    @property
    def equal(self) -> float:
        """The share of equal voxels."""
        return 1 - self.different / self.voxels

    def check(self, labels: Sequence[int], most: int) -> None:
        """Fail where more than `most` voxels differ, a label agrees to a Dice below 0.999, or one never occurs."""
        assert set(self.dice) == set(labels), "the networks see nothing: train them longer"
        assert self.different <= most, f"{self.different} of {self.voxels} voxels differ, more than {most}"
        assert min(self.dice.values()) >= 0.999


def compare(pairs: Iterable[tuple[NDArray[np.generic], NDArray[np.generic]]], labels: Sequence[int]) -> Agreement:
    """Voxel by voxel.

    Args:
        pairs: the two label maps of each case.
        labels: foreground values.
    """
    cases, voxels, different, least = 0, 0, 0, 1.0
    both, either = dict.fromkeys(labels, 0), dict.fromkeys(labels, 0)
    for ours, theirs in pairs:
        assert ours.shape == theirs.shape
        assert set(np.unique([ours, theirs])) <= {0, *labels}
        wrong = int((ours != theirs).sum())
        cases, voxels, different = cases + 1, voxels + ours.size, different + wrong
        least = min(least, 1 - wrong / ours.size)
        for label in labels:
            both[label] += int(((ours == label) & (theirs == label)).sum())
            either[label] += int((ours == label).sum()) + int((theirs == label).sum())
    dice = {label: 2 * both[label] / either[label] for label in labels if either[label]}
    return Agreement(cases, voxels, different, least, dice)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        number: its place.
        subject: dataset and network.
        folds: how many.
        mirrored: whether predictions were.
        sums: the precision in which nnU-Net adds tiles up.
        agreement: of the label maps.
        ours, theirs: what the commands cost; None where both ran in one process.
    """

    number: int
    subject: str
    folds: int
    mirrored: bool
    sums: str
    agreement: Agreement
    ours: Cost | None = None
    theirs: Cost | None = None

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.number:03}.json").write_text(json.dumps(asdict(self) | {"line": self.line()}))

    def line(self) -> str:
        found = self.agreement
        cells: list[Any] = [self.subject, self.folds, "yes" if self.mirrored else "no", self.sums]
        cells += [
            found.cases,
            _percent(found.equal),
            _percent(found.least),
            f"{found.different} of {found.voxels}",
            f"{min(found.dice.values()):.5f}",
        ]
        cells.append(f"{self.ours.seconds:.0f} / {self.theirs.seconds:.0f}" if self.ours and self.theirs else "")
        cells.append(f"{self.ours.peak_mib:.0f} / {self.theirs.peak_mib:.0f}" if self.ours and self.theirs else "")
        return "| " + " | ".join(map(str, cells)) + " |"


HEAD = (
    "dataset, network",
    "folds",
    "mirrored",
    "nnU-Net adds in",
    "cases",
    "voxels equal, %",
    "in the worst case, %",
    "different voxels",
    "lowest Dice of a label",
    "seconds, voxfit / nnU-Net",
    "peak memory in MiB, voxfit / nnU-Net",
)


def write_table(folder: Path, path: Path) -> None:
    """All rows that were saved in `folder`, as Markdown."""
    lines = [json.loads(file.read_text())["line"] for file in sorted(folder.glob("*.json"))]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD), *lines]) + "\n")


def _percent(share: float) -> str:
    """Never rounded up to 100."""
    return f"{np.floor(share * 1e6) / 1e4:.4f}"

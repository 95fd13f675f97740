"""Scores of predicted label maps against references: per case and label, and their means.

A label that is absent in both maps of a case has no score there and does not count in means; one that is absent in
one of them scores 0, and has no distance. The mean foreground Dice is the mean over labels of their mean over cases.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from voxfit.assessment import metrics
from voxfit.core.errors import DatasetError, Problem, UsageError
from voxfit.core.extensions import extension
from voxfit.core.formatting import format_sizes
from voxfit.core.records import Record, Sparse, refuse_foreign, write_atomically
from voxfit.imaging.geometry import Spacing
from voxfit.imaging.labels import IGNORED, Labels


class Metric(Protocol):
    """A metric of another package."""

    def __call__(self, reference: NDArray[np.bool_], predicted: NDArray[np.bool_], spacing_mm: Spacing) -> float | None:
        """The score of one label in one case, or None where it has none.

        Args:
            reference, predicted: (z, y, x) masks.
            spacing_mm: distance between voxels, (z, y, x).
        """


class LabelScores(Sparse):
    """One label in one case; see `voxfit.assessment.metrics` for the definitions.

    Attributes:
        dice: 0 to 1; None where the label is absent in both maps.
        hausdorff_95_mm: None where it is absent in either map, or was not measured.
        surface_dice: 0 to 1; None where it is absent in both maps, or was not measured.
        reference_voxels: size in the reference.
        predicted_voxels: size in the prediction.
        reference_ml: volume in the reference; 2D images count as 1 mm thick.
        predicted_ml: volume in the prediction.
        other: metrics of other packages, by name.
    """

    left_out = ("other",)
    dice: float | None
    hausdorff_95_mm: float | None
    surface_dice: float | None
    reference_voxels: int
    predicted_voxels: int
    reference_ml: float
    predicted_ml: float
    other: dict[str, float | None] = Field(default_factory=dict)


class CaseScores(Record):
    """One case: its name, and scores by the name of the label."""

    name: str
    labels: dict[str, LabelScores]


class LabelMeans(Sparse):
    """Means of one label over the cases that have a value; None where none has."""

    left_out = ("other",)
    dice: float | None
    hausdorff_95_mm: float | None
    surface_dice: float | None
    other: dict[str, float | None] = Field(default_factory=dict)


class MeanScores(Record):
    """Means over cases.

    Attributes:
        foreground_dice: mean of the labels' mean Dice, labels without a value left out; None when there is none.
        labels: means by the name of the label.
    """

    foreground_dice: float | None
    labels: dict[str, LabelMeans]


class Scores(Record):
    """The content of `scores.json`.

    Attributes:
        labels: names of the foreground labels, in order.
        tolerance_mm: of the surface Dice.
        mean: over the cases.
        cases: in the order they were given.
        missing: references that no prediction was there for; they are in no mean.
        warnings: what does not prevent a comparison but should be looked at.
    """

    schema_name: ClassVar[str] = "voxfit.scores/1"
    most_bytes: ClassVar[int] = 2**33  # 300 for each label of each case: 10,000 cases with a hundred labels have 300 MB
    labels: tuple[str, ...]
    tolerance_mm: float
    mean: MeanScores
    cases: tuple[CaseScores, ...]
    missing: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def score_case(
    name: str,
    reference: NDArray[np.integer],
    predicted: NDArray[np.integer],
    spacing_mm: Spacing,
    labels: Labels,
    tolerance_mm: float = 1.0,
    surface: bool = True,
    other_metrics: Sequence[str] = (),
) -> CaseScores:
    """Compare two label maps.

    Args:
        name: of the case.
        reference: (z, y, x) of class indices 0..n, whatever the values in the files are; where it is `IGNORED`, nothing
            is compared.
        predicted: the same.
        spacing_mm: distance between voxels, (z, y, x).
        labels: the classes.
        tolerance_mm: of the surface Dice.
        surface: measure surface distances too, which takes most of the time.
        other_metrics: of other packages, by name.

    Raises:
        DatasetError: the shapes differ.
        UsageError: no installed package offers such a metric.
    """
    if reference.shape != predicted.shape:
        raise DatasetError(shape_problem(name, reference.shape, predicted.shape))
    known = reference != IGNORED
    tolerance = tolerance_mm if surface else None
    others: dict[str, Metric] = {name: extension("metric", name) for name in other_metrics}
    scores = {
        label: _score_label(
            np.isin(reference, members), np.isin(predicted, members) & known, spacing_mm, tolerance, others
        )
        for label, members in zip(labels.names, labels.members, strict=True)
    }
    return CaseScores(name=name, labels=scores)


def summarize(
    cases: Sequence[CaseScores],
    labels: Labels,
    tolerance_mm: float = 1.0,
    *,
    missing: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> Scores:
    """Scores of cases, and their means."""
    means = {name: _mean_of([case.labels[name] for case in cases]) for name in labels.names}
    return Scores(
        labels=labels.names,
        tolerance_mm=tolerance_mm,
        mean=MeanScores(foreground_dice=_mean(item.dice for item in means.values()), labels=means),
        cases=tuple(cases),
        missing=tuple(missing),
        warnings=tuple(warnings),
    )


def missed_in(cases: Sequence[CaseScores], label: str) -> tuple[int, int]:
    """In how many cases a label was missed (nothing of it was found), and how many have it."""
    there = [case.labels[label] for case in cases if case.labels[label].reference_voxels]
    return sum(item.dice == 0 for item in there), len(there)


def save_scores(scores: Scores, path: Path) -> Path:
    """Write scores as JSON, and beside them a table, `path` with the ending .csv; returns its path.

    Raises:
        WorkspaceError: they cannot be written.
    """
    scores.save(path)
    table = path.with_suffix(".csv")
    write_atomically(table, to_csv(scores).encode())
    return table


def require_place(path: Path) -> tuple[Path, Path]:
    """The two files that `save_scores` writes, if they may be written: older scores are replaced, nothing else.

    Raises:
        UsageError: it is not the name of a JSON file, or something else is there.
    """
    if path.suffix.lower() != ".json":
        raise UsageError(f"-o {path}: name the JSON file, {path.with_suffix('.json')} say; the table goes beside it.")
    table = path.with_suffix(".csv")
    Scores.require_replaceable(path)
    refuse_foreign(table, lambda head: head.startswith(",".join(_COLUMNS)))
    return path, table


_MEASURED = tuple(name for name in LabelScores.model_fields if name != "other")
_COLUMNS = ("case", "label", *_MEASURED)


def to_csv(scores: Scores) -> str:
    """A table with a row for each case and label; a value that does not exist is an empty cell."""
    others = sorted({name for case in scores.cases for item in case.labels.values() for name in item.other})
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow((*_COLUMNS, *others))
    for case in scores.cases:
        for name, item in case.labels.items():
            measured = [getattr(item, column) for column in _MEASURED]
            writer.writerow((case.name, name, *measured, *(item.other.get(other) for other in others)))
    return stream.getvalue()


def shape_problem(where: str, reference: Sequence[int], predicted: Sequence[int]) -> Problem:
    """What to say when a prediction has another shape than its reference."""
    first, second = (format_sizes(shape) for shape in (predicted, reference))
    what = f"the prediction has the shape {first} (z, y, x), its reference has {second}."
    return Problem(where, what, "Resample the prediction to the grid of the reference.")


def _score_label(
    reference: NDArray[np.bool_],
    predicted: NDArray[np.bool_],
    spacing_mm: Spacing,
    tolerance_mm: float | None,
    others: Mapping[str, Metric],
) -> LabelScores:
    """Scores of one mask; no surface metrics without a tolerance."""
    reference_voxels, predicted_voxels = int(np.count_nonzero(reference)), int(np.count_nonzero(predicted))
    hausdorff = surface = None
    if tolerance_mm is not None:
        distances = metrics.surface_distances(reference, predicted, spacing_mm)
        hausdorff, surface = metrics.hausdorff_95_mm(distances), metrics.surface_dice(distances, tolerance_mm)
    return LabelScores(
        dice=metrics.dice(reference, predicted),
        hausdorff_95_mm=hausdorff,
        surface_dice=surface,
        reference_voxels=reference_voxels,
        predicted_voxels=predicted_voxels,
        reference_ml=metrics.volume_ml(reference_voxels, spacing_mm),
        predicted_ml=metrics.volume_ml(predicted_voxels, spacing_mm),
        other={name: metric(reference, predicted, spacing_mm) for name, metric in others.items()},
    )


def _mean_of(items: Sequence[LabelScores]) -> LabelMeans:
    return LabelMeans(
        dice=_mean(item.dice for item in items),
        hausdorff_95_mm=_mean(item.hausdorff_95_mm for item in items),
        surface_dice=_mean(item.surface_dice for item in items),
        other={name: _mean(item.other.get(name) for item in items) for name in items[0].other} if items else {},
    )


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return math.fsum(there) / len(there) if there else None

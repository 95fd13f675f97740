"""Comparing files of predicted labels with files of references, case by case in processes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from voxfit.assessment.scores import CaseScores, Scores, score_case, shape_problem, summarize
from voxfit.core.errors import DatasetError, Problem, UsageError
from voxfit.core.extensions import extension
from voxfit.core.parallel import Executor, choose_executor
from voxfit.imaging.dataset import Dataset
from voxfit.imaging.files import are_small
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.labels import Label, Labels, some
from voxfit.imaging.places import placing_gaps
from voxfit.imaging.verification import TOLERANCE_VOXELS
from voxfit.imaging.volume import file_ending, read_label

_MOST_VALUES = 1000
"""More different values than any anatomy has labels: then the files are images."""


def evaluate(
    predictions: str | Path,
    references: str | Path,
    *,
    labels: Labels | None = None,
    tolerance_mm: float = 1.0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    other_metrics: Sequence[str] = (),
) -> Scores:
    """Compare a folder of predicted label files with a folder of references, by file name without ending.

    Args:
        predictions: label files; each needs its reference.
        references: label files; those without a prediction are named in `Scores.missing`.
        labels: the classes; by default those of the `dataset.json` in `references` or in the folder above it, and
            where there is none, the values that are found in the files, as labels "1", "2", ...
        tolerance_mm: of the surface Dice.
        workers: processes; 1 runs everything here; default: the available cores.
        progress: called with (done, total) cases.
        other_metrics: of other packages, by name.

    Raises:
        UsageError: the folders do not match, the tolerance is no length, or there is no such metric.
        DatasetError: everything that is wrong with the files or with `dataset.json`.
    """
    if not 0 <= tolerance_mm < math.inf:
        raise UsageError(f"The tolerance is {tolerance_mm} mm. Give a length of 0 mm or more.")
    predictions, references, executor = Path(predictions), Path(references), choose_executor(workers)
    predicted, known = _label_files(predictions), _label_files(references)
    _require_references(predicted, known, predictions, references)
    pairs = {name: (path, known[name]) for name, path in predicted.items()}
    labels = _require_distinct(_find_labels(references, list(pairs.values()), executor) if labels is None else labels)
    return evaluate_files(
        pairs,
        labels,
        tolerance_mm=tolerance_mm,
        executor=executor,
        progress=progress,
        missing=[name for name in known if name not in predicted],
        other_metrics=other_metrics,
    )


def evaluate_files(
    pairs: Mapping[str, tuple[Path, Path]],
    labels: Labels,
    *,
    tolerance_mm: float = 1.0,
    executor: Executor,
    progress: Callable[[int, int], None] | None = None,
    missing: Sequence[str] = (),
    surface: bool = True,
    other_metrics: Sequence[str] = (),
) -> Scores:
    """Compare label files.

    Args:
        pairs: prediction and reference of each case.
        labels: the classes.
        tolerance_mm: of the surface Dice.
        executor: where cases are scored.
        progress: called with (done, total) cases.
        missing: names of references without prediction.
        surface: measure surface distances too, which takes most of the time.
        other_metrics: of other packages, by name.

    Raises:
        DatasetError: everything that is wrong with the files.
    """
    for name in other_metrics:
        extension("metric", name)  # a missing package is named once, and not by a worker
    tasks = [_Pair(name, *files, labels, tolerance_mm, surface, tuple(other_metrics)) for name, files in pairs.items()]
    light = are_small(pairs.values())
    outcomes = list(executor.map(_score_pair, tasks, name=lambda task: task.name, light=light, progress=progress))
    problems = [problem for _, found in outcomes for problem in found]
    if fatal := [problem for problem in problems if problem.fatal]:
        raise DatasetError(fatal)
    return summarize(
        [case for case, _ in outcomes if case is not None],
        labels,
        tolerance_mm,
        missing=missing,
        warnings=[str(problem) for problem in problems],
    )


@dataclass(frozen=True)
class _Pair:
    """What a worker needs to score one case."""

    name: str
    prediction: Path
    reference: Path
    labels: Labels
    tolerance_mm: float
    surface: bool
    other_metrics: tuple[str, ...]


def files_in(folder: Path) -> list[Path]:
    """The label files of a folder that `evaluate` compares, by name.

    Raises:
        UsageError: there are none, or several of one name.
    """
    return list(_label_files(folder).values())


def _label_files(folder: Path) -> dict[str, Path]:
    """The label files of a folder by name without ending, in order of name."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder. Name a folder of label files.")
    files = sorted(path for path in folder.iterdir() if file_ending(path) and not path.name.startswith("."))
    if not files:
        raise UsageError(f"{folder}: there are no label files. Name a folder that holds .nii.gz or other images.")
    names = [path.name[: -len(file_ending(path))] for path in files]
    if repeated := [name for name, times in Counter(names).items() if times > 1]:
        raise UsageError(f"{folder}: there are several files of {some(repeated)}. Keep one file for each case.")
    return dict(sorted(zip(names, files, strict=True)))


def _require_references(
    predicted: dict[str, Path], known: dict[str, Path], predictions: Path, references: Path
) -> None:
    alone = [name for name in predicted if name not in known]
    if len(alone) == len(predicted):
        raise UsageError(
            f"{predictions}: no file has the name of a reference in {references}. Predictions are there for "
            f"{some(list(predicted))}, references for {some(list(known))}. Give both the same names, endings aside."
        )
    if alone:
        waiting = [name for name in known if name not in predicted]
        left = f", where {some(waiting)} have no prediction" if waiting else ""
        raise UsageError(
            f"{predictions}: {some(alone)} have no reference in {references}{left}. "
            "Add the references, take these predictions out of the folder, or give both the same names."
        )


def _find_labels(references: Path, pairs: Sequence[tuple[Path, Path]], executor: Executor) -> Labels:
    """The labels of the nearest `dataset.json`, or those that occur."""
    for folder in (references, references.resolve().parent):
        if (folder / "dataset.json").is_file():
            labels = Dataset.open(folder).labels
            if not labels.classes:
                what = "defines no usable label."
                raise DatasetError(Problem(str(folder / "dataset.json"), what, "Correct it, or move it elsewhere."))
            return labels
    found = list(executor.map(_values_in, [path for pair in pairs for path in pair]))
    values = sorted({value for values in found for value in values} - {0})
    if len(values) > _MOST_VALUES:
        raise UsageError(
            f"{references}: the files have {len(values)} different values, as images have, not label maps. "
            "Name folders of label files."
        )
    return Labels(classes=tuple(Label(name=str(value), value=value) for value in values))


def _values_in(path: Path) -> list[int]:
    try:
        return [int(value) for value in np.unique(read_label(path).array)]
    except DatasetError:
        return []  # The pair is read again to be scored; that names all files that are unusable.


def _require_distinct(labels: Labels) -> Labels:
    """Scores stand under the names of labels, so these must differ, as their values must."""
    for what, found in (("name", labels.names), ("value", labels.values)):
        if repeated := [str(item) for item, times in Counter(found).items() if times > 1]:
            raise UsageError(f"Several labels have the {what} {', '.join(repeated)}. Give each its own {what}.")
    return labels


def _score_pair(pair: _Pair) -> tuple[CaseScores | None, list[Problem]]:
    """Read and score one case; without scores when a problem is fatal."""
    try:
        predicted, reference = read_label(pair.prediction), read_label(pair.reference)
        problems = _compare_grids(pair, reference.geometry, predicted.geometry)
        scores = score_case(
            pair.name,
            _to_indices(pair.reference, reference.array, pair.labels),
            _to_indices(pair.prediction, predicted.array, pair.labels),
            reference.geometry.spacing_mm,
            pair.labels,
            pair.tolerance_mm,
            pair.surface,
            pair.other_metrics,
        )
    except DatasetError as error:
        return None, error.problems
    return scores, problems


def _compare_grids(pair: _Pair, reference: Geometry, predicted: Geometry) -> list[Problem]:
    if reference.shape != predicted.shape:
        raise DatasetError(shape_problem(str(pair.prediction), reference.shape, predicted.shape))
    gap = reference.farthest_corner_gap(predicted)
    # A header that says two things of its place may have been read by the one here, and by the other there.
    if gap <= TOLERANCE_VOXELS or min(placing_gaps(pair.reference, pair.prediction)) <= TOLERANCE_VOXELS:
        return []
    what = f"its header and that of its reference place them {gap:.3g} voxels apart (spacing, origin or direction)."
    remedy = "They are compared voxel by voxel. Look whether they overlay."
    return [Problem(str(pair.prediction), what, remedy, fatal=False)]


def _to_indices(path: Path, array: NDArray[np.generic], labels: Labels) -> NDArray[np.int16]:
    indices, unknown = labels.to_indices(array)
    if unknown:
        what = f"has the values {some(unknown)}, which are no labels."
        defined = f"The labels have the values {some(labels.values)}."
        raise DatasetError(Problem(str(path), what, f"{defined} Add labels, or correct the file."))
    return indices

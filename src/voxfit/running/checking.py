"""What `voxfit check` does: every problem of a dataset in one pass, and a corrected copy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from voxfit.core.errors import Problem
from voxfit.core.parallel import Executor
from voxfit.core.progress import Listener
from voxfit.imaging.correction import misplaced_label, write_corrected
from voxfit.imaging.dataset import Dataset
from voxfit.imaging.files import are_small
from voxfit.imaging.verification import CaseSummary, describe_axes, empty_folds, verify_case, verify_folds
from voxfit.planning.folds import split
from voxfit.planning.recipes import Recipe
from voxfit.running.cases import compare_cases, leave_out, report_problems
from voxfit.running.experiment import unseen_classes


def check_dataset(dataset: Dataset, listener: Listener, executor: Executor, *, skip: bool = False) -> Dataset:
    """Warn of what is harmless; the dataset that can be trained on.

    Args:
        dataset: what is checked.
        listener: hears of progress and warnings.
        executor: where cases are read.
        skip: leave out cases that cannot be used.

    Raises:
        DatasetError: with every other problem.
    """
    tasks = [(case, len(dataset.channel_names), dataset.labels) for case in dataset.cases]
    results = list(
        executor.map(
            verify_case,
            tasks,
            name=lambda task: task[0].name,
            light=are_small(case.files for case in dataset.cases),
            progress=listener.progress,
            warn=listener.warn,
        )
    )
    summaries = [summary for _, summary in results if summary]
    problems = [*dataset.problems, *(problem for found, _ in results for problem in found)]
    problems += compare_cases(summaries, dataset)
    if axes := describe_axes(summaries):
        listener.say(axes)
    skipped = leave_out(problems) if skip else ()
    for case in skipped:
        listener.warn(f"{case.name} is left out: {' '.join(case.reasons)}")
    usable = dataset.without({case.name for case in skipped})
    problems += [*verify_folds(usable, Recipe().folds), *empty_folds(usable), *_unseen_classes(usable, summaries)]
    report_problems([problem for problem in problems if not (skip and problem.fatal and problem.case)], listener)
    return usable


def _unseen_classes(dataset: Dataset, summaries: Sequence[CaseSummary]) -> list[Problem]:
    """The folds, as `fit` would make them by default, that do not train every class."""
    if not dataset.cases:
        return []
    left, recipe = {case.name for case in dataset.cases}, Recipe()
    classes = {item.case.name: tuple(sorted(item.classes)) for item in summaries if item.case.name in left}
    folds = split(dataset.cases, recipe.folds, recipe.seed, dataset.splits, classes)
    return unseen_classes(folds, classes, dataset.labels)


def fix_dataset(dataset: Dataset, folder: Path, listener: Listener, executor: Executor) -> None:
    """Write a copy of a dataset without fatal problems, where a label's header differs from its image's.

    Raises:
        UsageError, WorkspaceError: the folder cannot be used.
    """
    found = executor.map(misplaced_label, dataset.cases, name=lambda case: case.name)
    gaps = {case.name: gap for case, gap in zip(dataset.cases, found, strict=True)}
    wrong = [case for case in dataset.cases if gaps[case.name]]
    if not wrong:
        listener.say("Nothing to fix: image and label headers agree. No copy was written.")
        return
    for case, path in zip(wrong, write_corrected(dataset, wrong, folder), strict=True):
        listener.say(f"{path}: has the image's header now; it was {gaps[case.name]:.3g} voxels off.")
    listener.say(f"Written to {folder}; {len(wrong)} labels were corrected, {dataset.folder} is as it was.")

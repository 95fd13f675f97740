"""The work on single cases, in worker processes: verify, measure, prepare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from voxfit.core.errors import DatasetError, Problem
from voxfit.core.parallel import Executor
from voxfit.core.progress import Listener
from voxfit.core.records import digest_of, stamp
from voxfit.imaging.dataset import Dataset
from voxfit.imaging.files import Case, are_small
from voxfit.imaging.labels import Labels
from voxfit.imaging.verification import CaseSummary, describe_axes, read_labelled, summarize_case, verify_together
from voxfit.imaging.volume import Volume
from voxfit.planning.fingerprint import (
    CaseMeasurement,
    Fingerprint,
    Measurements,
    SkippedCase,
    is_ct,
    measure_case,
    summarize,
)
from voxfit.planning.grid import Grid
from voxfit.planning.intensities import MOST_VALUES, Counts, count, merge, restrict
from voxfit.preprocessing.case import prepare
from voxfit.preprocessing.store import StoreManifest, is_written, manifest_of, write_case


def measure_dataset(
    dataset: Dataset, listener: Listener, executor: Executor, inputs_digest: str = "", *, skip: bool = False
) -> Fingerprint:
    """Verify and measure every training case.

    Args:
        dataset: what is measured.
        listener: hears of progress and warnings.
        executor: where cases are read.
        inputs_digest: digest of the files.
        skip: leave out cases that cannot be used; the fingerprint names them.

    Raises:
        DatasetError: with every problem of every case.
    """
    problems: list[Problem] = []
    summaries: list[CaseSummary] = []
    measured = Measurements()
    unusable = {problem.case for problem in dataset.problems if problem.fatal}
    for found, measurement, summary in executor.map(
        _examine,
        [(case, dataset.channel_names, dataset.labels) for case in dataset.cases],
        name=lambda task: task[0].name,
        light=are_small(case.files for case in dataset.cases),
        progress=listener.progress,
        warn=listener.warn,
    ):
        problems += found
        if summary and measurement:
            summaries.append(summary)
            if summary.case.name not in unusable:
                measured.add(measurement)
    together = compare_cases(summaries, dataset)
    problems += together
    skipped = leave_out([*dataset.problems, *problems]) if skip else ()
    dataset = dataset.without({case.name for case in skipped})
    if skip and any(problem.fatal and problem.case for problem in together):
        # Which cases go with no others is known only when all have been read: the sums are made again without them.
        again = measure_dataset(dataset, listener, executor, inputs_digest, skip=True)
        return again.revised(skipped=(*skipped, *again.skipped))
    if axes := describe_axes(summaries):
        listener.say(axes)
    report_problems([problem for problem in problems if not (skip and problem.fatal and problem.case)], listener)
    left = {case.name for case in dataset.cases}
    dimension = next((summary.dimension for summary in summaries if summary.case.name in left), None)
    if dimension is None:
        raise DatasetError(Problem("imagesTr", "no training case can be used.", "Correct the files."))
    facts = summarize(dataset, dimension, measured, partial(_count_again, dataset, executor), inputs_digest)
    classes = {item.case.name: tuple(sorted(item.classes)) for item in summaries if item.case.name in left}
    return facts.revised(skipped=skipped, classes=classes)


def compare_cases(summaries: Sequence[CaseSummary], dataset: Dataset) -> list[Problem]:
    """What no case of a dataset shows alone; the scale of intensities is compared in CT only."""
    names = dataset.channel_names
    return verify_together(summaries, dataset.labels, names, [is_ct(name) for name in names])


def _count_again(dataset: Dataset, executor: Executor, channel: int, uppers: tuple[int, ...]) -> Counts:
    """The second pass over a channel with very many distinct values."""
    tasks = [(case, dataset.channel_names, dataset.labels, channel, uppers) for case in dataset.cases]
    light = are_small(case.files for case in dataset.cases)
    return merge(executor.map(_recount, tasks, name=lambda task: task[0].name, light=light))


def digest_of_files(dataset: Dataset) -> str:
    """Digest of the training files, by name, size and time of change."""
    return digest_of([stamp(path) for case in dataset.cases for path in case.files])


def leave_out(problems: Sequence[Problem]) -> tuple[SkippedCase, ...]:
    """The cases that have fatal problems, with these."""
    reasons: dict[str, list[str]] = {}
    for problem in problems:
        if problem.fatal and problem.case:
            reasons.setdefault(problem.case, []).append(str(problem))
    return tuple(SkippedCase(name=name, reasons=tuple(found)) for name, found in sorted(reasons.items()))


def report_problems(problems: Sequence[Problem], listener: Listener) -> None:
    """Warn of harmless problems, raise the others.

    Raises:
        DatasetError: listing all fatal ones.
    """
    for problem in problems:
        if not problem.fatal:
            listener.warn(str(problem))
    if fatal := [problem for problem in problems if problem.fatal]:
        raise DatasetError(fatal)


@dataclass(frozen=True)
class Destination:
    """A store that is filled.

    Attributes:
        grid: of its cases.
        folder: where they go.
        inputs_digest: digest of what determines them.
    """

    grid: Grid
    folder: Path
    inputs_digest: str


def fill_stores(
    dataset: Dataset, destinations: Sequence[Destination], listener: Listener, executor: Executor
) -> list[StoreManifest]:
    """Prepare every training case into some stores; cases that are there stay. Each is read once for all stores.

    Returns:
        the manifest of each store, still to be written.
    """
    cases, channels = dataset.cases, len(dataset.channel_names)
    missing = [[place for place in destinations if not is_written(place.folder, case.name)] for case in cases]
    tasks = [
        _Preparation(case, channels, dataset.labels, tuple(places))
        for case, places in zip(cases, missing, strict=True)
        if places
    ]
    there = len(cases) - len(tasks)
    if there:
        listener.say(f"{there} of {len(cases)} cases are prepared already.")
    for _ in executor.map(
        _prepare_case,
        tasks,
        name=lambda task: task.case.name,
        light=are_small(task.case.files for task in tasks),
        progress=lambda done, _: listener.progress(there + done, len(cases)),
        warn=listener.warn,
    ):
        pass
    return [manifest_of(place.folder, [case.name for case in cases], place.inputs_digest) for place in destinations]


@dataclass(frozen=True)
class _Preparation:
    case: Case
    channels: int
    labels: Labels
    destinations: tuple[Destination, ...]


def _prepare_case(task: _Preparation) -> None:
    case, problems = read_labelled(task.case, task.channels, task.labels)
    if case is None:
        raise DatasetError([problem for problem in problems if problem.fatal])
    for place in task.destinations:
        volume = Volume(case.image, case.geometry)
        # Without a name for it, one prepared case is gone before the next is made.
        write_case(place.folder, task.case.name, prepare(volume, place.grid, case.label), task.labels.count)


def _recount(task: tuple[Case, tuple[str, ...], Labels, int, tuple[int, ...]]) -> Counts:
    """The second pass over a case."""
    case, channel_names, labels, channel, uppers = task
    found, problems = read_labelled(case, len(channel_names), labels)
    if found is None:
        raise DatasetError(problems)
    return count(restrict(found.image[channel][found.label > 0], uppers), MOST_VALUES)


def _examine(
    task: tuple[Case, tuple[str, ...], Labels],
) -> tuple[list[Problem], CaseMeasurement | None, CaseSummary | None]:
    case, channel_names, labels = task
    found, problems = read_labelled(case, len(channel_names), labels)
    if found is None:
        return problems, None, None
    return problems, measure_case(found, channel_names, labels), summarize_case(case, found)

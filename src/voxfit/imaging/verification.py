"""One pass over the files of a dataset: every problem with its case, the fact and the remedy."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from voxfit.core.errors import DatasetError, Problem
from voxfit.core.formatting import format_sizes
from voxfit.imaging.dataset import Dataset
from voxfit.imaging.files import Case
from voxfit.imaging.geometry import Geometry, usual_orientation
from voxfit.imaging.headers import fault
from voxfit.imaging.labels import Labels, some
from voxfit.imaging.outliers import CaseFacts, facts_of, find_outliers
from voxfit.imaging.places import placing_gaps, placing_problem
from voxfit.imaging.volume import Volume, read_image, read_label

TOLERANCE_VOXELS = 1e-3
"""Image and label grids closer than this at every corner are the same grid."""


@dataclass(frozen=True)
class LabelledVolume:
    """A case in memory: image (channel, z, y, x) float32, label (z, y, x) of class indices, their common grid."""

    image: NDArray[np.float32]
    label: NDArray[np.int16]
    geometry: Geometry


@dataclass(frozen=True)
class CaseSummary:
    """What comparing the cases of a dataset needs of each.

    Attributes:
        case: it.
        dimension: of its image files, 2 or 3.
        digest: of its voxels; two cases with the same are the same image.
        classes: the indices that its label has.
        facts: what it is compared with others in.
        orientation: of its image; empty where unknown.
    """

    case: Case
    dimension: int
    digest: str
    classes: frozenset[int]
    facts: CaseFacts
    orientation: str = ""


def read_case_image(case: Case) -> Volume:
    """Read the image of a case, its channel files stacked, however many there are.

    Raises:
        DatasetError: a file is unusable, or channels differ in shape.
    """
    return _read_channels(case)[0]


def _read_channels(case: Case, channels: int | None = None) -> tuple[Volume, list[Problem]]:
    """The stacked channels, as many as dataset.json names, and warnings about headers that disagree."""
    problems = []
    if case.fault:
        raise DatasetError(Problem(case.name, *case.fault))
    parts = [read_image(Path(path)) for path in case.images]
    first = parts[0]
    for path, part in zip(case.images, parts, strict=True):
        if part.geometry.shape != first.geometry.shape:
            raise fault(
                path,
                f"the channel has the shape {format_sizes(part.geometry.shape)}, "
                f"the first has {format_sizes(first.geometry.shape)}.",
                "Resample the channels of a case to one grid.",
            )
        gap = first.geometry.farthest_corner_gap(part.geometry)
        if gap > TOLERANCE_VOXELS and _are_apart(case.images[0], path):
            what = f"the header places this channel {gap:.3g} voxels from the first one."
            remedy = "The shapes agree, so the first header is used. Look whether they overlay."
            problems.append(Problem(path, what, remedy, fatal=False))
    array = np.concatenate([np.asarray(part.array, np.float32) for part in parts]) if len(parts) > 1 else first.array
    if channels is not None and len(array) != channels:
        raise fault(
            case.images[0],
            f"the image has {len(array)} channels, but {channels} are named in dataset.json.",
            "Correct channel_names, or the files.",
        )
    return Volume(array, first.geometry), problems


def read_labelled(case: Case, channels: int, labels: Labels) -> tuple[LabelledVolume | None, list[Problem]]:
    """Read and verify a training case; the volume is None when a problem is fatal."""
    volume, problems = _read_labelled(case, channels, labels)
    return volume, [replace(problem, case=case.name) for problem in problems]


def _read_labelled(case: Case, channels: int, labels: Labels) -> tuple[LabelledVolume | None, list[Problem]]:
    problems: list[Problem] = []
    image = label = None
    try:
        image, problems = _read_channels(case, channels)
    except DatasetError as error:
        problems = error.problems
    try:
        label = read_label(Path(case.label or ""))
    except DatasetError as error:
        problems = [*problems, *error.problems]
    problems = [replace(problem, where=f"{case.name} ({problem.where})") for problem in problems]
    if image is None or label is None:
        return None, problems
    problems += [*_placing_problems(case), *_compare_grids(case, image.geometry, label.geometry)]
    indices, label_problems = _to_indices(case, label.array, labels)
    problems += label_problems
    if float(image.array.min()) == float(image.array.max()):
        problems.append(Problem(case.name, "all voxels of the image are equal.", "Look at the image.", fatal=False))
    if any(problem.fatal for problem in problems):
        return None, problems
    return LabelledVolume(np.asarray(image.array, np.float32), indices, image.geometry), problems


def summarize_case(case: Case, volume: LabelledVolume) -> CaseSummary:
    """What is kept of a case that was read without a fatal problem."""
    digest = hashlib.sha256(np.ascontiguousarray(volume.image).data).hexdigest()
    seen = np.zeros(1 << 16, np.bool_)  # much quicker than sorting
    seen[np.ascontiguousarray(volume.label).view(np.uint16)] = True
    classes = frozenset((np.flatnonzero(seen[1 : 1 << 15]) + 1).tolist())
    geometry = volume.geometry
    facts = facts_of(volume.image, volume.label, geometry)
    return CaseSummary(case, geometry.dimension, f"{volume.image.shape} {digest}", classes, facts, geometry.orientation)


def verify_case(task: tuple[Case, int, Labels]) -> tuple[list[Problem], CaseSummary | None]:
    """The problems of one case, and its summary where none is fatal: the worker of `voxfit check`."""
    volume, problems = read_labelled(*task)
    return problems, summarize_case(task[0], volume) if volume else None


def verify_together(
    summaries: Sequence[CaseSummary], labels: Labels, channel_names: Sequence[str], absolute: Sequence[bool]
) -> list[Problem]:
    """What no case shows alone: two and three dimensions, the same image twice, a class that is nowhere, outliers.

    Args:
        summaries: of all cases.
        labels: of the dataset.
        channel_names: of the dataset.
        absolute: of each channel, whether its intensities mean the same in all images.
    """
    return [
        *_dimension_problems(summaries),
        *_repeated_images(summaries),
        *_unseen_classes(summaries, labels),
        *find_outliers({item.case.name: item.facts for item in summaries}, channel_names, absolute),
    ]


def describe_axes(summaries: Sequence[CaseSummary]) -> str:
    """What is to be said where images are stored along other axes than most; empty where they are not."""
    usual = usual_orientation([summary.orientation for summary in summaries])
    other = [summary for summary in summaries if summary.orientation not in ("", usual)]
    if not usual or not other:
        return ""
    codes = ", ".join(sorted({summary.orientation for summary in other}))
    names = some([summary.case.name for summary in other])
    return (
        f"{len(other)} of {len(summaries)} images are stored along other axes ({codes}) than most ({usual}): {names}. "
        "They are turned for training, and what is predicted for them is turned back."
    )


def _dimension_problems(summaries: Sequence[CaseSummary]) -> list[Problem]:
    usual = Counter(summary.dimension for summary in summaries).most_common(1)
    return [
        Problem(
            summary.case.name,
            f"the image is {summary.dimension}D, but most are {usual[0][0]}D.",
            "Take it out, or make two datasets of them.",
            case=summary.case.name,
        )
        for summary in summaries
        if summary.dimension != usual[0][0]
    ]


def _repeated_images(summaries: Sequence[CaseSummary]) -> list[Problem]:
    first: dict[str, Case] = {}
    problems = []
    for summary in summaries:
        other = first.setdefault(summary.digest, summary.case)
        # Cases of one group are never on both sides of a split.
        if other != summary.case and not (other.group and other.group == summary.case.group):
            what = f"the image is the same as that of {other.name}; what is trained on may be validated on."
            remedy = "Take one of them out, or put them into one group (--group-by)."
            problems.append(Problem(summary.case.name, what, remedy, fatal=False))
    return problems


def _unseen_classes(summaries: Sequence[CaseSummary], labels: Labels) -> list[Problem]:
    seen = frozenset[int]().union(*(summary.classes for summary in summaries))
    unseen = [name for index, name in enumerate(labels.class_names, 1) if index not in seen]
    if not unseen or not summaries:
        return []
    what = f"no label has a voxel of {', '.join(unseen)}."
    if not seen:
        return [Problem("labelsTr", "all labels are empty (background only).", "There is nothing to learn from them.")]
    return [Problem("dataset.json", what, "It cannot be learnt: look at the labels.", fatal=False)]


def verify_folds(dataset: Dataset, folds: int) -> list[Problem]:
    """Whether there are enough cases (or groups) to train on."""
    groups = {case.group or case.name for case in dataset.cases}
    if len(groups) < 2:
        return [
            Problem(
                "dataset.json",
                f"there are {len(groups)} training cases.",
                "At least two are needed, to train and to validate.",
            )
        ]
    if len(groups) < folds:
        return [
            Problem(
                "dataset.json",
                f"{len(groups)} training cases are fewer than {folds} folds.",
                f"Cross-validation takes {len(groups)} folds instead.",
                fatal=False,
            )
        ]
    return []


def empty_folds(dataset: Dataset) -> list[Problem]:
    """Folds of `splits_final.json` that have nothing left on one side when cases are left out."""
    return [
        Problem("splits_final.json", f"fold {number} is empty on one side without them.", "Correct the cases.")
        for number, (training, validation) in enumerate(dataset.splits)
        if not training or not validation
    ]


def _placing_problems(case: Case) -> list[Problem]:
    """A warning where the header of the image, or else of the label, gives two places (sform and qform) or none."""
    found = (placing_problem(Path(path)) for path in (case.images[0], case.label or ""))
    return [replace(problem, where=f"{case.name} ({problem.where})") for problem in found if problem][:1]


def _are_apart(image: str, other: str) -> bool:
    """Whether two files lie at different places for every program; `placing_problem` warns of ambiguous headers."""
    return min(placing_gaps(Path(image), Path(other))) > TOLERANCE_VOXELS


def _compare_grids(case: Case, image: Geometry, label: Geometry) -> list[Problem]:
    if image.shape != label.shape:
        return [
            Problem(
                case.name,
                f"the image has the shape {format_sizes(image.shape)} (z, y, x), "
                f"its label has {format_sizes(label.shape)}.",
                f"Resample {case.label} to the grid of the image.",
            )
        ]
    gap = image.farthest_corner_gap(label)
    if gap > TOLERANCE_VOXELS and _are_apart(case.images[0], case.label or ""):
        return [
            Problem(
                case.name,
                f"the headers of image and label place them {gap:.3g} voxels apart "
                "(spacing, origin or direction differ).",
                "The shapes agree, so the image's header is used. Look whether they overlay; `voxfit check --fix` "
                "writes a copy with equal headers.",
                fatal=False,
            )
        ]
    return []


def _to_indices(case: Case, array: NDArray[np.generic], labels: Labels) -> tuple[NDArray[np.int16], list[Problem]]:
    """File values become class indices 0..n."""
    indices, unknown = labels.to_indices(array)
    problems: list[Problem] = []
    if not labels.classes:
        return indices, problems  # an error of dataset.json
    if unknown:
        plural = "s" if len(unknown) > 1 else ""
        what = f"the label has the value{plural} {some(unknown)}, but dataset.json defines {some(labels.values)}."
        problems.append(Problem(case.name, what, f"Add the label{plural} or correct {case.label}."))
    elif not indices.any():
        what = "the label is empty (background only)."
        problems.append(Problem(case.name, what, "Look at the label.", fatal=False))
    return indices, problems

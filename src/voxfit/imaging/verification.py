"""One pass over the files of a dataset: every problem with its case, the fact and the remedy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from voxfit.core.errors import DatasetError, Problem
from voxfit.imaging.dataset import Dataset
from voxfit.imaging.files import Case
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.labels import Labels, some
from voxfit.imaging.volume import Volume, read_image, read_label

TOLERANCE_VOXELS = 1e-3
"""Image and label grids closer than this at every corner are the same grid."""


@dataclass(frozen=True)
class LabelledVolume:
    """A case in memory: image (channel, z, y, x) float32, label (z, y, x) of class indices, their common grid."""

    image: NDArray[np.float32]
    label: NDArray[np.int16]
    geometry: Geometry


def read_case_image(case: Case, channels: int) -> Volume:
    """Read the image of a case, its channel files stacked.

    Raises:
        DatasetError: a file is unusable, or channels differ in number or shape.
    """
    return _read_channels(case, channels)[0]


def _read_channels(case: Case, channels: int) -> tuple[Volume, list[Problem]]:
    """The stacked channels, and warnings about headers that disagree."""
    problems = []
    parts = [read_image(Path(path)) for path in case.images]
    first = parts[0]
    for path, part in zip(case.images, parts, strict=True):
        if part.geometry.shape != first.geometry.shape:
            raise DatasetError(
                Problem(
                    path,
                    f"the channel has the shape {_by(part.geometry.shape)}, the first has {_by(first.geometry.shape)}.",
                    "Resample the channels of a case to one grid.",
                )
            )
        gap = first.geometry.farthest_corner_gap(part.geometry)
        if gap > TOLERANCE_VOXELS:
            what = f"the header places this channel {gap:.3g} voxels from the first one."
            remedy = "The shapes agree, so the first header is used. Look whether they overlay."
            problems.append(Problem(path, what, remedy, fatal=False))
    array = np.concatenate([np.asarray(part.array, np.float32) for part in parts]) if len(parts) > 1 else first.array
    if len(array) != channels:
        raise DatasetError(
            Problem(
                case.images[0],
                f"the image has {len(array)} channels, but {channels} are named in dataset.json.",
                "Correct channel_names, or the files.",
            )
        )
    return Volume(array, first.geometry), problems


def read_labelled(case: Case, channels: int, labels: Labels) -> tuple[LabelledVolume | None, list[Problem]]:
    """Read and verify a training case; the volume is None when a problem is fatal."""
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
    problems = [_named(case, problem) for problem in problems]
    if image is None or label is None:
        return None, problems
    problems += _compare_grids(case, image.geometry, label.geometry)
    indices, label_problems = _to_indices(case, label.array, labels)
    problems += label_problems
    if float(image.array.min()) == float(image.array.max()):
        problems.append(Problem(case.name, "all voxels of the image are equal.", "Look at the image.", fatal=False))
    if any(problem.fatal for problem in problems):
        return None, problems
    return LabelledVolume(np.asarray(image.array, np.float32), indices, image.geometry), problems


def verify_case(task: tuple[Case, int, Labels]) -> list[Problem]:
    """The problems of one case: the worker of `voxfit check`."""
    return read_labelled(*task)[1]


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


def _compare_grids(case: Case, image: Geometry, label: Geometry) -> list[Problem]:
    if image.shape != label.shape:
        return [
            Problem(
                case.name,
                f"the image has the shape {_by(image.shape)} (z, y, x), its label has {_by(label.shape)}.",
                f"Resample {case.label} to the grid of the image.",
            )
        ]
    gap = image.farthest_corner_gap(label)
    if gap > TOLERANCE_VOXELS:
        return [
            Problem(
                case.name,
                f"the headers of image and label place them {gap:.3g} voxels apart "
                "(spacing, origin or direction differ).",
                "The shapes agree, so the image's header is used. Look whether they overlay.",
                fatal=False,
            )
        ]
    return []


def _to_indices(case: Case, array: NDArray[np.generic], labels: Labels) -> tuple[NDArray[np.int16], list[Problem]]:
    """File values become class indices 0..n."""
    indices, unknown = labels.to_indices(array)
    problems = []
    if unknown:
        plural = "s" if len(unknown) > 1 else ""
        what = f"the label has the value{plural} {some(unknown)}, but dataset.json defines {some(labels.values)}."
        problems.append(Problem(case.name, what, f"Add the label{plural} or correct {case.label}."))
    elif not indices.any():
        what = "the label is empty (background only)."
        problems.append(Problem(case.name, what, "Look at the label.", fatal=False))
    return indices, problems


def _named(case: Case, problem: Problem) -> Problem:
    return Problem(f"{case.name} ({problem.where})", problem.what, problem.remedy, problem.fatal)


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)

"""Segmenting many images: each is written as soon as it is done, and a bad one does not stop the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from voxfit.core.errors import DatasetError, Problem, UsageError
from voxfit.core.listening import Listener
from voxfit.imaging.files import Case, group_channels, images_in
from voxfit.imaging.volume import file_ending, write_label
from voxfit.inference.model import Model


def find_cases(inputs: Sequence[Path], channels: int) -> tuple[Case, ...]:
    """The cases of files and folders; files `NAME_0000.ext`, `NAME_0001.ext` are the channels of one case.

    Args:
        inputs: image files, or folders of them.
        channels: of the model.

    Raises:
        UsageError: there is nothing to predict, or a name occurs twice.
    """
    cases: list[Case] = []
    files = []
    for path in inputs:
        if path.is_dir():
            cases.extend(images_in(path))
        elif path.is_file():
            files.append(path)
        else:
            raise UsageError(f"{path}: there is no such file or folder.")
    # A single channel needs no suffix, and a lone file keeps its whole name then.
    cases.extend(group_channels(files) if channels > 1 or len(files) != 1 else _single(files[0]))
    if not cases:
        raise UsageError(f"{', '.join(str(path) for path in inputs)}: there are no images.")
    names = [case.name for case in cases]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{repeated[0]}: several images have this name. Predict them into different folders.")
    return tuple(cases)


def predict_cases(
    model: Model, cases: Sequence[Case], folder: Path, listener: Listener, ending: str | None = None
) -> list[Problem]:
    """Segment cases into a folder, as `NAME` with the ending of the image.

    Args:
        model: an open model.
        cases: what to segment.
        folder: gets one label file for each case.
        listener: hears of every finished case.
        ending: of the label files; default: each image's own.

    Returns:
        what was wrong with the cases that could not be segmented.
    """
    problems: list[Problem] = []
    for index, case in enumerate(cases):
        try:
            label, geometry = model.predict_case(case)
        except DatasetError as error:
            problems += error.problems
        else:
            write_label(folder / (case.name + (ending or file_ending(Path(case.images[0])))), label, geometry)
        listener.progress(index + 1, len(cases))
    return problems


def _single(path: Path) -> tuple[Case, ...]:
    stem = path.name[: -len(file_ending(path))] if file_ending(path) else path.stem
    return (Case(name=stem.removesuffix("_0000"), images=(str(path),)),)

"""Segmenting many images: each is written as soon as it is done, and a bad one does not stop the others."""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from voxfit.core.errors import DatasetError, MemoryLimitError, Problem, UsageError
from voxfit.core.listening import Listener
from voxfit.core.memory import in_words
from voxfit.imaging.files import Case, group_channels, images_in, not_read
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.labels import some
from voxfit.imaging.places import placing_problem
from voxfit.imaging.volume import file_ending, read_image, write_label
from voxfit.inference.model import Model, ReadyCase
from voxfit.running.outputs import Outputs, open_outputs


def find_cases(inputs: Sequence[Path], channels: int) -> tuple[Case, ...]:
    """The cases of files and folders, named by the rule of `voxfit.imaging.files.group_channels`.

    Args:
        inputs: image files, or folders of them. Each folder is looked at for itself, the files together.
        channels: of the model.

    Raises:
        UsageError: there is nothing to predict, or a name occurs twice.
    """
    cases: list[Case] = []
    files = []
    is_whole = partial(_has_channels, channels)
    for path in inputs:
        if path.is_dir():
            cases.extend(images_in(path, channels=channels, is_whole=is_whole))
        elif path.is_file():
            files.append(path)
        else:
            raise UsageError(f"{path}: there is no such file or folder.")
    cases.extend(group_channels(files, channels, is_whole))
    if not cases:
        shown = [f"{', '.join(str(path) for path in inputs)}: there are no images.", *overlooked(inputs)]
        raise UsageError(" ".join(shown))
    names = Counter(case.name for case in cases)
    if repeated := sorted(name for name, times in names.items() if times > 1):
        raise UsageError(f"{repeated[0]}: several images have this name. Predict them into different folders.")
    return tuple(cases)


def _has_channels(channels: int, path: Path) -> bool:
    """Whether a file has all channels, or cannot be read, which will be said when it is."""
    with contextlib.suppress(DatasetError):
        return channels == 1 or len(read_image(path).array) == channels
    return True


def overlooked(inputs: Sequence[Path]) -> list[str]:
    """What lies in folders and is an image, but of a format that is not read; one message a folder and format."""
    found: dict[tuple[Path, tuple[str, str]], list[str]] = {}
    for folder in inputs:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if (reason := not_read(path)) and not path.name.startswith("."):
                found.setdefault((folder, reason), []).append(path.name)
    return [f"{folder}: {some(names)}: {' '.join(reason)}" for (folder, reason), names in found.items()]


def predict_cases(
    model: Model,
    cases: Sequence[Case],
    folder: Path,
    listener: Listener,
    ending: str | None = None,
    *,
    overwrite: bool = False,
) -> list[Problem]:
    """Segment cases into a folder, as `NAME` with the ending of the image.

    While the networks work on one case, the next is read and the last is written. What is there already, made by the
    same model from the same images, is kept, so that a prediction that was ended goes on.

    Args:
        model: an open model.
        cases: what to segment.
        folder: gets one label file for each case.
        listener: hears of every finished case, and of the memory that large ones take.
        ending: of the label files; default: each image's own.
        overwrite: make all again.

    Returns:
        what was wrong with the cases that could not be segmented.

    Raises:
        WorkspaceError: another process predicts into this folder, or it cannot be written.
    """
    files = {case: folder / (case.name + (ending or file_ending(Path(case.images[0])))) for case in cases}
    with open_outputs(folder, model.identity) as outputs:
        left = [case for case in cases if overwrite or not outputs.is_done(case, files[case])]
        if len(left) < len(cases):
            listener.say(
                f"{len(cases) - len(left)} of {len(cases)} label maps are there already, made by this model from these "
                "images; they are kept (--overwrite makes them again)."
            )
        return _segment_all(model, left, files, outputs, listener)


def _segment_all(
    model: Model, cases: Sequence[Case], files: Mapping[Case, Path], outputs: Outputs, listener: Listener
) -> list[Problem]:
    problems: list[Problem] = []
    announced, turned = 0, list[str]()
    with ThreadPoolExecutor(1, "voxfit-writer") as writer:
        written: Future[None] | None = None
        for index, (case, reading) in enumerate(_read_ahead(model, cases)):
            try:
                ready = reading.result()
                _doubt_place(case, listener)
                turned += [case.name] * ready.is_turned
                needed = model.estimate(ready.geometry, is_read=True)
                if needed > 1.2 * announced:
                    announced = needed
                    listener.say(f"{case.name} takes about {in_words(needed)} of memory.")
                label = model.segment(ready)
            except DatasetError as error:
                problems += error.problems
            except MemoryLimitError as error:
                problems.append(Problem(case.name, str(error), "Raise --max-memory."))
            else:
                if written:
                    written.result()
                written = writer.submit(_write, outputs, case, files[case], label, ready.geometry)
            listener.progress(index + 1, len(cases))
        if written:
            written.result()
    _tell_turned(turned, len(cases), model.plan.orientation, listener)
    return problems


def _doubt_place(case: Case, listener: Listener) -> None:
    """Warn of an image that other programs may place elsewhere."""
    if doubt := placing_problem(Path(case.images[0])):
        listener.warn(str(doubt))


def _tell_turned(names: Sequence[str], total: int, orientation: str, listener: Listener) -> None:
    """Say that images are stored along other axes than those of the training."""
    if names:
        listener.say(
            f"{len(names)} of {total} images are stored along other axes than the training's ({orientation}): "
            f"{some(names)}. They were turned for the networks, and their label maps back."
        )


def _write(outputs: Outputs, case: Case, path: Path, label: NDArray[np.generic], geometry: Geometry) -> None:
    write_label(path, label, geometry, like=Path(case.images[0]))
    outputs.mark_done(case, path)


def _read_ahead(model: Model, cases: Sequence[Case]) -> Iterator[tuple[Case, Future[ReadyCase]]]:
    """Each case with its reading; the next is read meanwhile, unless memory is limited."""
    with ThreadPoolExecutor(1, "voxfit-reader") as reader:
        coming: deque[Future[ReadyCase]] = deque()
        ahead = 1 if model.max_memory is None else 0
        for index, case in enumerate(cases):
            while len(coming) <= ahead and index + len(coming) < len(cases):
                coming.append(reader.submit(model.read, cases[index + len(coming)]))
            yield case, coming.popleft()

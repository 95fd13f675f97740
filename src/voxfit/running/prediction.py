"""Segmenting many images: each is written as soon as it is done, and a bad one does not stop the others."""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from voxfit.core.errors import DatasetError, MemoryLimitError, Problem, UsageError
from voxfit.core.formatting import format_bytes
from voxfit.core.progress import Listener
from voxfit.imaging.files import Case, group_channels, images_in, not_read
from voxfit.imaging.labels import some
from voxfit.imaging.protection import protect
from voxfit.imaging.volume import file_ending, read_image
from voxfit.imaging.writing import write_label
from voxfit.inference.caveats import NO_FOREGROUND
from voxfit.inference.model import Model, ReadyCase
from voxfit.running.outputs import Outputs, open_outputs, problem_of

_MOST_WARNINGS = 20


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


@dataclass
class Predicted:
    """What became of the cases.

    Attributes:
        written: label maps that were made.
        kept: that were there, made by the same model from the same images.
        problems: why the others were not made.
        caveats: of each label map, what speaks against trusting it; nothing for most.
        turned: the cases that are stored along other axes than the training's.
    """

    written: int = 0
    kept: int = 0
    problems: list[Problem] = field(default_factory=list)
    caveats: dict[str, tuple[str, ...]] = field(default_factory=dict)
    turned: list[str] = field(default_factory=list)


def require_folder(output: Path, inputs: Sequence[Path]) -> None:
    """Refuse as the folder of label maps what is named like a file, and a folder of images.

    Raises:
        UsageError: among images, label maps would be taken for images the next time.
    """
    if output.is_dir():
        if any(path.is_dir() and path.samefile(output) for path in inputs):
            raise UsageError(f"-o {output}: is the folder of the images. Name another folder for the label maps.")
    elif file_ending(output):
        raise UsageError(f"-o {output}: is named like a file. Name a folder; label maps get the names of the images.")


def predict_cases(
    model: Model,
    cases: Sequence[Case],
    folder: Path,
    listener: Listener,
    ending: str | None = None,
    *,
    overwrite: bool = False,
) -> Predicted:
    """Segment cases into a folder, as `NAME` with the ending of the image.

    While the networks work on one case, the next is read and the last is written. What is there already, made by the
    same model from the same images, is kept, so that a prediction that was ended goes on. A file that voxfit did not
    write, or that was changed since, stays as well, and is a problem.

    Args:
        model: an open model.
        cases: what to segment.
        folder: gets one label file for each case.
        listener: hears of every finished case, of the memory that large ones take, and of label maps to look at.
        ending: of the label files; default: each image's own.
        overwrite: make all again, also where a file is that voxfit did not write.

    Raises:
        UsageError: a label map would replace an image, or a file of a dataset.
        WorkspaceError: another process predicts into this folder, or it cannot be written.
    """
    files = {case: folder / (case.name + (ending or file_ending(Path(case.images[0])))) for case in cases}
    before = Outputs(folder, model.identity)
    images = [Path(image) for case in cases for image in case.images]
    protect(files.values(), images, made={file for file in files.values() if before.has_written(file)})
    done = Predicted()
    with open_outputs(folder, model.identity) as outputs:
        left = _without_finished(cases, files, outputs, done, overwrite=overwrite)
        if done.kept:
            listener.say(
                f"{done.kept} of {len(cases)} label maps are there already, made by this model from these "
                "images; they are kept (--overwrite makes them again)."
            )
        doubts = _Doubts(listener)
        for name, caveats in done.caveats.items():
            doubts.say(name, caveats)
        _Segmenting(model, files, outputs, doubts, done, overwrite).run(left)
    doubts.finish(done, len(cases))
    if done.turned:
        listener.say(
            f"{len(done.turned)} of {len(cases)} images are stored along other axes than the training's "
            f"({model.plan.orientation}): {some(done.turned)}. They were turned for the networks, and their label maps "
            "back."
        )
    return done


def _without_finished(
    cases: Sequence[Case], files: Mapping[Case, Path], outputs: Outputs, done: Predicted, *, overwrite: bool
) -> list[Case]:
    """The cases to segment."""
    if overwrite:
        return list(cases)
    left = []
    for case in cases:
        found = outputs.look(case, files[case])
        if found.state == "done":
            done.kept += 1
            done.caveats[case.name] = found.caveats
        elif found.state == "foreign":
            done.problems.append(problem_of(found, files[case]))
        else:
            left.append(case)
    return left


@dataclass
class _Segmenting:
    """Reads, segments and writes some cases at a time.

    Attributes:
        model, files, outputs, overwrite: see `predict_cases`.
        doubts: hears of images to be doubted.
        done: is added to.
    """

    model: Model
    files: Mapping[Case, Path]
    outputs: Outputs
    doubts: _Doubts
    done: Predicted
    overwrite: bool

    def run(self, cases: Sequence[Case]) -> None:
        """Segment all; the next case is read, and the last written, meanwhile."""
        announced, listener = 0, self.doubts.listener
        with ThreadPoolExecutor(1, "voxfit-writer") as writer:
            written: Future[None] | None = None
            for index, (case, reading) in enumerate(_read_ahead(self.model, cases)):
                try:
                    ready = reading.result()
                    self.doubts.say(case.name, ready.caveats)
                    if ready.is_turned:
                        self.done.turned.append(case.name)
                    needed = self.model.estimate(ready.geometry, is_read=True)
                    if needed > 1.2 * announced:
                        announced = needed
                        listener.say(f"{case.name} takes about {format_bytes(needed)} of memory.")
                    label = self.model.segment(ready)
                except DatasetError as error:
                    self.done.problems += error.problems
                except MemoryLimitError as error:
                    self.done.problems.append(Problem(case.name, str(error), "Raise --max-memory."))
                else:
                    if written:
                        written.result()
                    written = writer.submit(self._write, case, label, ready)
                listener.progress(index + 1, len(cases))
            if written:
                written.result()

    def _write(self, case: Case, label: NDArray[np.generic], ready: ReadyCase) -> None:
        caveats = ready.caveats if label.any() else (*ready.caveats, NO_FOREGROUND)
        write_label(self.outputs.staged(self.files[case]), label, ready.geometry, like=Path(case.images[0]))
        problem = self.outputs.replace_durably(case, self.files[case], caveats, overwrite=self.overwrite)
        if problem:
            self.done.problems.append(problem)
            return
        self.done.written += 1
        self.done.caveats[case.name] = caveats


class _Doubts:
    """Warns of what speaks against trusting label maps: of images before they are segmented, which may take long."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.said = 0

    def say(self, name: str, caveats: Sequence[str]) -> None:
        """Warn of one image, unless there were many before."""
        for text in caveats:
            if text != NO_FOREGROUND:
                self.said += 1
                if self.said <= _MOST_WARNINGS:
                    self.listener.warn(f"{name}: {text}")

    def finish(self, done: Predicted, total: int) -> None:
        """Say what is left: empty label maps in one line."""
        if self.said > _MOST_WARNINGS:
            self.listener.warn(
                f"{self.said - _MOST_WARNINGS} more such lines are in .voxfit/outputs.jsonl of the folder."
            )
        if empty := [name for name, texts in done.caveats.items() if NO_FOREGROUND in texts]:
            are = "label maps have" if total > 1 else "label map has"
            self.listener.warn(f"{len(empty)} of {total} {are} no foreground: {some(empty)}.")


def _read_ahead(model: Model, cases: Sequence[Case]) -> Iterator[tuple[Case, Future[ReadyCase]]]:
    """Each case with its reading; the next is read meanwhile, unless memory is limited."""
    with ThreadPoolExecutor(1, "voxfit-reader") as reader:
        coming: deque[Future[ReadyCase]] = deque()
        ahead = 1 if model.max_memory is None else 0
        for index, case in enumerate(cases):
            while len(coming) <= ahead and index + len(coming) < len(cases):
                coming.append(reader.submit(model.read, cases[index + len(coming)]))
            yield case, coming.popleft()

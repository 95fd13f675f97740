"""No output is one of the inputs, or a file of a dataset, whatever path leads to it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from voxfit.core.errors import DatasetError, UsageError
from voxfit.imaging.dataset import Dataset
from voxfit.imaging.labels import some

FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")
"""Of a dataset."""

Identity = tuple[int, int]
"""What all paths to one file or folder have in common."""


def protect(outputs: Iterable[Path], inputs: Iterable[Path] = (), made: Collection[Path] = ()) -> None:
    """Refuse to write where an input lies, or a file of the dataset that outputs or inputs belong to.

    Files are compared as the system knows them, so links, `.` and other spellings of a path do not matter. Call it
    before anything is written.

    Args:
        outputs: files that will be written, or replaced where they are there.
        inputs: files that are read.
        made: those of the outputs that voxfit has written before: where they lie in a dataset, they are none of its
            own files.

    Raises:
        UsageError: naming outputs that are inputs or files of a dataset.
    """
    there = {identity: path for path in outputs if (identity := identity_of(path))}
    if not there:
        return
    inputs = list(inputs)
    _refuse([there[same] for path in inputs if (same := identity_of(path)) in there], "is read here")
    strangers = {identity: path for identity, path in there.items() if path not in made}
    if strangers:
        kept = {identity_of(file) for folder in _datasets({*strangers.values(), *inputs}) for file in _files_of(folder)}
        _refuse([path for identity, path in strangers.items() if identity in kept], "belongs to a dataset")


def _refuse(paths: list[Path], why: str) -> None:
    if paths:
        names = some(sorted({str(path) for path in paths}))
        raise UsageError(f"{names}: {why} and would be replaced. Choose another place with -o; nothing was written.")


def identity_of(path: Path) -> Identity | None:
    """Of a file or folder, whatever path leads to it; None where there is none."""
    with suppress(OSError, ValueError):
        status = path.stat()
        return status.st_dev, status.st_ino
    return None


def _datasets(paths: Iterable[Path]) -> set[Path]:
    """The folders above some files that hold a dataset."""
    parents = {parent for path in {path.resolve().parent for path in paths} for parent in (path, *path.parents)}
    return {folder for folder in parents if (folder / "dataset.json").is_file()}


def _files_of(folder: Path) -> Iterator[Path]:
    """What belongs to a dataset: its descriptions, all in its four folders, and whatever else it lists."""
    yield from (folder / "dataset.json", folder / "splits_final.json")
    for room in FOLDERS:
        with suppress(OSError):
            yield from (folder / room).iterdir()
    with suppress(DatasetError):
        for case in Dataset.open(folder).cases:
            yield from map(Path, (*case.images, case.label or ""))

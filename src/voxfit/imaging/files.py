"""Image files of a folder, joined to cases by their names."""

from __future__ import annotations

import re
from pathlib import Path

from voxfit.core.errors import DatasetError, Problem
from voxfit.core.records import Record
from voxfit.imaging.volume import file_ending

CHANNEL_SUFFIX = re.compile(r"_(\d{4})$")
"""nnU-Net's numbers of channels."""


class Case(Record):
    """One patient or image.

    Attributes:
        name: unique in the dataset.
        images: one file with all channels, or a file for each channel in order.
        label: the label map; None for a test image.
        group: cases of one group (a patient) never stand on both sides of a split.
    """

    name: str
    images: tuple[str, ...]
    label: str | None = None
    group: str = ""


def images_in(folder: Path, ending: str = "") -> tuple[Case, ...]:
    """The unlabelled images of a folder, files `NAME_0000.ext`, `NAME_0001.ext` joined to one case when they are there.

    The suffix is optional: it is taken off when every file has it.

    Args:
        folder: with image files.
        ending: only files of this ending; empty for all that can be read.
    """
    return group_channels(image_files_in(folder, ending))


def group_channels(files: list[Path]) -> tuple[Case, ...]:
    """Cases of a list of image files, in order of name."""
    stems = [(path, path.name[: -len(file_ending(path))]) for path in files]
    if not stems or not all(CHANNEL_SUFFIX.search(stem) for _, stem in stems):
        return tuple(Case(name=stem, images=(str(path),)) for path, stem in stems)
    groups: dict[str, list[str]] = {}
    for path, stem in sorted(stems, key=lambda item: item[1]):
        groups.setdefault(CHANNEL_SUFFIX.sub("", stem), []).append(str(path))
    return tuple(Case(name=name, images=tuple(paths)) for name, paths in sorted(groups.items()))


def image_files_in(folder: Path, wanted: str) -> list[Path]:
    """By name; hidden ones are none (macOS leaves a `._NAME` beside each file that it copies)."""
    files = sorted(path for path in folder.iterdir() if file_ending(path) and not path.name.startswith("."))
    if wanted:
        files = [path for path in files if file_ending(path) == wanted]
    for path in files:
        check_text(path)
    return files


def check_text(path: Path) -> None:
    """A name that no record could hold is an error."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise DatasetError(Problem(ascii(str(path)), "the name is not UTF-8.", "Rename it.")) from None

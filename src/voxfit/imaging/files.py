"""Image files of a folder, joined to cases by their names."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from voxfit.core.records import Record
from voxfit.imaging.volume import check_text, file_ending

_CHANNEL_SUFFIX = re.compile(r"(?<=.)_([0-9]{4})\Z")

NOT_READ = {
    ".jpg": ("JPEG", "PNG"),
    ".jpeg": ("JPEG", "PNG"),
    ".jp2": ("JPEG 2000", "PNG"),
    ".gif": ("GIF", "PNG"),
    ".webp": ("WebP", "PNG"),
    ".dcm": ("DICOM", "NIfTI, one file for a series"),
    ".ima": ("DICOM", "NIfTI, one file for a series"),
    ".hdr": ("Analyze", "NIfTI"),
    ".img": ("Analyze", "NIfTI"),
    ".mgz": ("FreeSurfer's format", "NIfTI"),
    ".mgh": ("FreeSurfer's format", "NIfTI"),
    ".mnc": ("MINC", "NIfTI"),
    ".nhdr": ("NRRD with its voxels in another file", "NRRD (.nrrd)"),
    ".npy": ("NumPy's format", "NIfTI, with its spacing"),
    ".npz": ("NumPy's format", "NIfTI, with its spacing"),
}
"""Endings of images that are not read: the format, and what to save as instead."""


IsWhole = Callable[[Path], bool]


def _yes(path: Path) -> bool:
    """A file of one channel is an image."""
    return True


class Case(Record):
    """One patient or image.

    Attributes:
        name: unique in the dataset.
        images: one file with all channels, or a file for each channel in order.
        label: the label map; None for a test image.
        group: cases of one group (a patient) never stand on both sides of a split.
        fault: why its files are no image together, and what to do; None where nothing speaks against it.
    """

    name: str
    images: tuple[str, ...]
    label: str | None = None
    group: str = ""
    fault: tuple[str, str] | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """Images and label map."""
        return (*self.images, *([self.label] if self.label else []))


def images_in(
    folder: Path, ending: str = "", channels: int | None = None, is_whole: IsWhole = _yes
) -> tuple[Case, ...]:
    """The unlabelled images of a folder, named by the rule of `group_channels`, which has the other arguments.

    Args:
        folder: with image files.
        ending: only files of this ending; empty for all that can be read.
        channels: of each image.
        is_whole: whether a file is an image by itself.
    """
    return group_channels(image_files_in(folder, ending), channels, is_whole)


def group_channels(files: Sequence[Path], channels: int | None = None, is_whole: IsWhole = _yes) -> tuple[Case, ...]:
    """Cases of image files, in order of name: the one rule of which digits number channels and which name a patient.

    `NAME_0000`, `NAME_0001`, ... are the channels of NAME where their numbers are 0 to n-1 for n channels; a lone
    `NAME_0000` is NAME as well, a file of all channels. Files with any other numbers (and a lone one beside a file
    called NAME) are cases of their own, and the digits are part of their names (`amos_1001`, `amos_1002`), if they are
    images by themselves; then those of a lone `NAME_0000` are part of its name, too, because they number no channels
    here. If they are none, they are one case with a fault: channels are missing or numbered otherwise.

    Args:
        files: all images that belong together, of one folder for instance.
        channels: of each image; None where it is unknown: any numbers 0 to m-1 are channels then.
        is_whole: whether a file is an image by itself, with all channels; asked only where numbers do not tell.
    """
    numbered, plain = split_numbers(files)
    odd = {
        name
        for name, parts in numbered.items()
        if not are_channels([number for number, _ in parts], channels) or (len(parts) == 1 and name in plain)
    }
    named = {name for name in odd if any(is_whole(path) for _, path in numbered[name])}
    if named:
        named |= {name for name, parts in numbered.items() if len(parts) == 1 and is_whole(parts[0][1])}
    cases = [Case(name=name, images=(str(path),)) for name, paths in plain.items() for path in paths]
    for name, parts in numbered.items():
        if name in named:
            cases += [Case(name=stem_of(path), images=(str(path),)) for _, path in parts]
        else:
            fault = wrong_numbers([number for number, _ in parts], channels) if name in odd else None
            cases.append(Case(name=name, images=tuple(str(path) for _, path in parts), fault=fault))
    return tuple(sorted(cases, key=lambda case: case.name))


def split_numbers(files: Sequence[Path]) -> tuple[dict[str, list[tuple[int, Path]]], dict[str, list[Path]]]:
    """Files whose names end in four digits, by name without these and in order of number; and the others by name."""
    numbered: dict[str, list[tuple[int, Path]]] = {}
    plain: dict[str, list[Path]] = {}
    for path in sorted(files):
        name, number = name_and_number(path)
        if number is None:
            plain.setdefault(name, []).append(path)
        else:
            numbered.setdefault(name, []).append((number, path))
    for parts in numbered.values():
        parts.sort()
    return numbered, plain


def are_channels(numbers: Sequence[int], channels: int | None) -> bool:
    """Whether the numbers of the files of one name are those of its channels: 0 to n-1, or 0 for a file of all."""
    return list(numbers) in ([0], list(range(channels or len(numbers))))


def wrong_numbers(numbers: Sequence[int], channels: int | None) -> tuple[str, str]:
    """The fact and the remedy for a case whose files are not numbered as its channels should be.

    Args:
        numbers: of its files, in order.
        channels: that an image of the dataset has; None where it is unknown.
    """
    what = f"has the channel files {', '.join(f'_{number:04d}' for number in numbers)}"
    if list(numbers) == list(range(len(numbers))):
        are = "is 1 channel" if channels == 1 else f"are {channels} channels"
        return f"{what}, but there {are}.", "Keep one file for each channel."
    return f"{what}.", "Number them _0000, _0001, ... without gaps."


def name_and_number(path: Path) -> tuple[str, int | None]:
    """Name and channel number of a file, without its ending: "a_0001.nii.gz" gives ("a", 1), "a.mha" ("a", None)."""
    stem = stem_of(path)
    match = _CHANNEL_SUFFIX.search(stem)
    return (stem[: match.start()], int(match[1])) if match else (stem, None)


def stem_of(path: Path) -> str:
    """A file's name without the ending of its kind."""
    ending = file_ending(path) or path.suffix
    return path.name[: len(path.name) - len(ending)]


def not_read(path: Path) -> tuple[str, str] | None:
    """Of a file whose format is known but not read: that, and what to save it as."""
    known = None if file_ending(path) else NOT_READ.get(path.suffix.lower())
    return (f"{known[0]} is not read.", f"Save it as {known[1]}.") if known else None


def image_files_in(folder: Path, wanted: str) -> list[Path]:
    """By name; hidden ones are none (macOS leaves a `._NAME` beside each file that it copies)."""
    files = sorted(path for path in folder.iterdir() if file_ending(path) and not path.name.startswith("."))
    if wanted:
        files = [path for path in files if file_ending(path) == wanted]
    for path in files:
        check_text(path)
    return files


_SMALL_BYTES = 2**17
"""Gzip packs at most 1032 bytes into one: a case of shorter files has less than 2**28 voxels, a GiB as float32."""


def are_small(cases: Iterable[Iterable[str | Path]]) -> bool:
    """Whether every case is so small, by the length of its files, that no process of its own need be risked on it."""
    return all(_length(files) <= _SMALL_BYTES for files in cases)


def _length(files: Iterable[str | Path]) -> int:
    total = 0
    for path in files:
        with contextlib.suppress(OSError):  # a missing file is reported when it is read
            total += os.stat(path).st_size
    return total

"""A folder of labelled volumes: the Decathlon (MSD) and the nnU-Net v2 raw layout, read as they are.

Both have `dataset.json`, `imagesTr`, `labelsTr` and perhaps `imagesTs`. They differ in how channels are stored (one 4D
file, or one file a channel with the suffix `_0000`), in the key of the channel names (`modality`, `channel_names`)
and in the direction of `labels` (value to name, or name to value).
"""

from __future__ import annotations

import glob
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from voxfit.core.errors import DatasetError, Problem, RecordError
from voxfit.core.records import Record, read_json
from voxfit.imaging.labels import Labels, read_labels
from voxfit.imaging.volume import FILE_ENDINGS, file_ending

_CHANNEL_SUFFIX = re.compile(r"_(\d{4})$")


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


@dataclass(frozen=True)
class Dataset:
    """A dataset folder, described; nothing but `dataset.json` and the file names has been read.

    Attributes:
        folder: where it is.
        name: its name.
        channel_names: one for each channel.
        labels: the foreground classes.
        cases: training cases, in order of name.
        test_cases: images without labels.
        splits: names of training and validation cases for each fold, where the folder has `splits_final.json`.
        problems: what the description itself has wrong; `voxfit.imaging.verification` finds what the files have wrong.
    """

    folder: Path
    name: str
    channel_names: tuple[str, ...]
    labels: Labels
    cases: tuple[Case, ...]
    test_cases: tuple[Case, ...] = ()
    splits: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()
    problems: tuple[Problem, ...] = field(default=())

    @staticmethod
    def open(folder: str | Path, group_by: str | None = None) -> Dataset:
        """Read the description of a dataset folder.

        Args:
            folder: has `dataset.json`.
            group_by: regular expression; what its first group (or the whole match) captures in a case's name is the
                case's group.

        Raises:
            DatasetError: there is no usable `dataset.json`. Smaller faults are collected in `problems`.
        """
        return _open(Path(folder), group_by)


def images_in(folder: Path, ending: str = "") -> tuple[Case, ...]:
    """The unlabelled images of a folder, files `NAME_0000.ext`, `NAME_0001.ext` joined to one case when they are there.

    The suffix is optional: it is taken off when every file has it.

    Args:
        folder: with image files.
        ending: only files of this ending; empty for all that can be read.
    """
    return group_channels(_image_files_in(folder, ending))


def group_channels(files: list[Path]) -> tuple[Case, ...]:
    """Cases of a list of image files, in order of name."""
    stems = [(path, path.name[: -len(file_ending(path))]) for path in files]
    if not stems or not all(_CHANNEL_SUFFIX.search(stem) for _, stem in stems):
        return tuple(Case(name=stem, images=(str(path),)) for path, stem in stems)
    groups: dict[str, list[str]] = {}
    for path, stem in sorted(stems, key=lambda item: item[1]):
        groups.setdefault(_CHANNEL_SUFFIX.sub("", stem), []).append(str(path))
    return tuple(Case(name=name, images=tuple(paths)) for name, paths in sorted(groups.items()))


def _image_files_in(folder: Path, wanted: str) -> list[Path]:
    """By name; hidden ones are none (macOS leaves a `._NAME` beside each file that it copies)."""
    files = sorted(path for path in folder.iterdir() if file_ending(path) and not path.name.startswith("."))
    if wanted:
        files = [path for path in files if file_ending(path) == wanted]
    for path in files:
        _check_text(path)
    return files


def _check_text(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise DatasetError(Problem(ascii(str(path)), "the name is not UTF-8.", "Rename it.")) from None


def _open(folder: Path, group_by: str | None) -> Dataset:
    if not folder.is_dir():
        raise DatasetError(Problem(str(folder), "there is no such folder.", "Name the folder that holds dataset.json."))
    _check_text(folder)
    path = folder / "dataset.json"
    if not path.is_file():
        raise DatasetError(
            Problem(str(path), "there is no such file.", "A dataset needs it: see the README, section 'Your own data'.")
        )
    try:
        description = read_json(path)
    except RecordError as error:
        raise DatasetError(Problem(str(path), str(error).removeprefix(f"{path}: "), "Correct it.")) from None
    if not isinstance(description, dict):
        raise DatasetError(
            Problem(str(path), "holds no JSON object.", "Write an object with channel_names and labels.")
        )
    reader = _Reader(folder, description)
    channels, labels = reader.channel_names(), reader.labels()
    cases = reader.training_cases()
    splits = reader.splits({case.name for case in cases})
    if group_by is not None:
        cases = _grouped(cases, group_by)
    test = folder / "imagesTs"
    return Dataset(
        folder=folder,
        name=str(description.get("name") or folder.name),
        channel_names=channels,
        labels=labels,
        cases=cases,
        test_cases=images_in(test, reader.ending) if test.is_dir() else (),
        splits=splits,
        problems=tuple(reader.problems),
    )


def _grouped(cases: tuple[Case, ...], pattern: str) -> tuple[Case, ...]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise DatasetError(
            Problem("--group-by", f"{pattern!r} is no regular expression ({error}).", "Correct it.")
        ) from None
    grouped = []
    for case in cases:
        match = expression.search(case.name)
        group = match and match.group(1 if expression.groups else 0)
        if not group:
            raise DatasetError(
                Problem(case.name, f"--group-by {pattern!r} matches nothing in this name.", "Correct the expression.")
            )
        grouped.append(case.model_copy(update={"group": group}))
    return tuple(grouped)


class _Reader:
    """Reads one `dataset.json`, collecting problems."""

    def __init__(self, folder: Path, description: dict[str, Any]) -> None:
        self.folder = folder
        self.description = description
        self.problems: list[Problem] = []
        self.ending = self._ending()

    def _ending(self) -> str:
        """The files that count, where nnU-Net's `file_ending` says so; its reader classes are not needed here."""
        ending = self.description.get("file_ending")
        if ending is None:
            return ""
        if not isinstance(ending, str) or ending.lower() not in FILE_ENDINGS:
            self.fail(
                "dataset.json",
                f'"file_ending" is {ending!r}.',
                f"Files of these endings can be read: {', '.join(FILE_ENDINGS)}.",
            )
            return ""
        return ending.lower()

    def fail(self, where: str, what: str, remedy: str, *, fatal: bool = True) -> None:
        self.problems.append(Problem(where, what, remedy, fatal))

    def channel_names(self) -> tuple[str, ...]:
        key = "channel_names" if "channel_names" in self.description else "modality"
        found = self.description.get(key)
        if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
            self.fail("dataset.json", f'"{key}" is {found!r}.', 'Write for instance "channel_names": {"0": "CT"}.')
            return ("image",)
        try:
            return tuple(found[number] for number in sorted(found, key=int))
        except ValueError:
            self.fail("dataset.json", f'the keys of "{key}" are {sorted(found)}.', 'Number the channels "0", "1", ...')
            return tuple(found.values())

    def labels(self) -> Labels:
        labels, problems = read_labels(self.description.get("labels"), self.description.get("regions_class_order"))
        for what, remedy in problems:
            self.fail("dataset.json", what, remedy)
        return labels

    def training_cases(self) -> tuple[Case, ...]:
        listed, named = self.description.get("training"), self.description.get("dataset")
        if isinstance(named, dict) and named:
            found = self._named(named)
        else:
            found = self._listed(listed) if isinstance(listed, list) and listed else self._from_folders()
        names = Counter(case.name for case in found)
        for name in sorted(name for name, times in names.items() if times > 1):
            self.fail(name, f"the case is there {names[name]} times.", "Keep one of them.")
        if not found and not any(problem.fatal for problem in self.problems):
            self.fail(
                "imagesTr", "there are no training cases.", "Put images into imagesTr and their labels into labelsTr."
            )
        unique = {case.name: case for case in found}
        groups = self.description.get("groups")
        if isinstance(groups, dict):
            unique = {
                name: case.model_copy(update={"group": str(groups.get(name, ""))}) for name, case in unique.items()
            }
        return tuple(unique[name] for name in sorted(unique))

    def _listed(self, listed: list[Any]) -> list[Case]:
        """Cases of the MSD key `training`."""
        cases = []
        for number, entry in enumerate(listed):
            if (
                not isinstance(entry, dict)
                or not isinstance(entry.get("image"), str)
                or not isinstance(entry.get("label"), str)
            ):
                self.fail(
                    "dataset.json", f'entry {number} of "training" is {entry!r}.', 'Write {"image": ..., "label": ...}.'
                )
                continue
            image, label = self._inside(entry["image"]), self._inside(entry["label"])
            if image is None or label is None:
                continue
            images, name = self._image_files(image)
            if not images:
                self.fail(
                    name,
                    f"the image {entry['image']} does not exist.",
                    "Add the file or take the case out of dataset.json.",
                )
            elif not label.is_file():
                self.fail(
                    name,
                    f"the label {entry['label']} does not exist.",
                    "Add the file or take the case out of dataset.json.",
                )
            else:
                cases.append(Case(name=name, images=images, label=str(label)))
        return cases

    def _named(self, named: dict[str, Any]) -> list[Case]:
        """Cases of nnU-Net v2's key `dataset`: the files of each by name."""
        cases = []
        for name, entry in named.items():
            images = entry.get("images") if isinstance(entry, dict) else None
            label = entry.get("label") if isinstance(entry, dict) else None
            files = [*images, label] if isinstance(images, list) else []
            if not images or not all(isinstance(file, str) for file in files):
                self.fail(
                    "dataset.json",
                    f'the entry "{name}" of "dataset" is {entry!r}.',
                    'Write {"images": [...], "label": ...}.',
                )
                continue
            paths = [self._inside(file) for file in files]
            for file, path in zip(files, paths, strict=True):
                if path is not None and not path.is_file():
                    self.fail(name, f"the file {file} does not exist.", "Add it or take the case out of dataset.json.")
            if all(path is not None and path.is_file() for path in paths):
                cases.append(Case(name=name, images=tuple(map(str, paths[:-1])), label=str(paths[-1])))
        return cases

    def splits(self, known: set[str]) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
        """The folds of `splits_final.json`, as nnU-Net writes it."""
        path = self.folder / "splits_final.json"
        if not path.exists():
            return ()
        remedy = 'Write [{"train": [names], "val": [names]}, ...], or remove the file.'
        try:
            body = read_json(path)
            splits = tuple((tuple(map(str, fold["train"])), tuple(map(str, fold["val"]))) for fold in body)
        except (RecordError, TypeError, KeyError) as error:
            self.fail(path.name, f"is no list of folds ({error}).", remedy)
            return ()
        if not splits:
            self.fail(path.name, "holds no folds.", remedy)
        for number, (training, validation) in enumerate(splits):
            if strangers := sorted({*training, *validation} - known):
                self.fail(path.name, f"fold {number} names {strangers[0]}, which is no training case.", remedy)
            if shared := sorted(set(training) & set(validation)):
                self.fail(path.name, f"fold {number} has {shared[0]} on both sides.", remedy)
            if not training or not validation:
                self.fail(path.name, f"fold {number} is empty on one side.", remedy)
        return splits

    def _inside(self, relative: str) -> Path | None:
        try:
            path = (self.folder / relative).resolve()
            path.is_file()
        except (OSError, ValueError) as error:
            self.fail("dataset.json", f"the path {relative!r} cannot be used ({error}).", "Correct it.")
            return None
        if not path.is_relative_to(self.folder.resolve()):
            self.fail(
                "dataset.json", f"the path {relative!r} leads out of the dataset.", "Keep all files inside the folder."
            )
            return None
        return self.folder / relative

    def _image_files(self, image: Path) -> tuple[tuple[str, ...], str]:
        """The file itself, or its channel files (nnU-Net v1 lists `case.nii.gz` and stores `case_0000.nii.gz`)."""
        ending = file_ending(image) or image.suffix
        stem = image.name[: len(image.name) - len(ending)]
        if image.is_file():
            return (str(image),), stem
        files = sorted(image.parent.glob(f"{glob.escape(stem)}_[0-9][0-9][0-9][0-9]{glob.escape(ending)}"))
        return tuple(str(path) for path in files), stem

    def _from_folders(self) -> list[Case]:
        """Cases of the folders imagesTr and labelsTr, by name."""
        images, labels = self.folder / "imagesTr", self.folder / "labelsTr"
        for folder in (images, labels):
            if not folder.is_dir():
                self.fail(
                    folder.name,
                    "there is no such folder.",
                    "Put the training images into imagesTr, labels into labelsTr.",
                )
                return []
        by_name = {path.name[: -len(file_ending(path))]: path for path in _image_files_in(labels, self.ending)}
        cases = []
        for case in images_in(images, self.ending):
            label = by_name.pop(case.name, None)
            if label is None:
                self.fail(case.name, "has no label file in labelsTr.", "Add it, or remove the image.")
            else:
                cases.append(case.model_copy(update={"label": str(label)}))
        for name in by_name:
            self.fail(name, "has a label but no image in imagesTr.", "Add the image, or remove the label.")
        return cases

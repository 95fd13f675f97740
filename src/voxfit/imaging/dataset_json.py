"""`dataset.json`, in the forms of the Decathlon and of nnU-Net's versions 1 and 2."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from voxfit.core.errors import Problem, RecordError
from voxfit.core.records import read_json
from voxfit.imaging.files import (
    Case,
    are_channels,
    images_in,
    name_and_number,
    split_numbers,
    stem_of,
    wrong_numbers,
)
from voxfit.imaging.labels import Labels, impossible_regions, read_labels
from voxfit.imaging.matching import match_folders, unused_files
from voxfit.imaging.volume import FILE_ENDINGS

_ADD = "Add the file or take the case out of dataset.json."


class Description:
    """Reads one `dataset.json` and the file names beside it, collecting problems.

    Attributes:
        channel_names: in the order of their numbers.
        labels: the classes or regions.
        problems: what was found wrong so far.
    """

    def __init__(self, folder: Path, description: dict[str, object]) -> None:
        self.folder = folder
        self.description = description
        self.problems: list[Problem] = []
        self.ending = self._ending()
        self._channels: int | None = None
        self.channel_names = self._read_channel_names()
        self.labels = self._read_labels()
        self._numbered: dict[Path, dict[str, list[tuple[int, Path]]]] = {}
        self._used: set[Path] = set()
        """Files of cases, and those that an error names."""

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

    def fail(self, where: str, what: str, remedy: str, *, fatal: bool = True, case: str = "") -> None:
        """Note a problem; `case` is the one that could be left out instead."""
        self.problems.append(Problem(where, what, remedy, fatal, case))

    def _read_channel_names(self) -> tuple[str, ...]:
        key = next((key for key in ("channel_names", "modality") if key in self.description), "channel_names")
        found = self.description.get(key)
        if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
            what = f'"{key}" is {found!r}.' if key in self.description else f'"{key}" is missing.'
            self.fail("dataset.json", what, 'Write for instance "channel_names": {"0": "CT"}.')
            return ("image",)
        self._channels = len(found)
        try:
            return tuple(found[number] for number in sorted(found, key=int))
        except ValueError:
            self.fail("dataset.json", f'the keys of "{key}" are {sorted(found)}.', 'Number the channels "0", "1", ...')
            return tuple(found.values())

    def _read_labels(self) -> Labels:
        labels, problems = read_labels(self.description.get("labels"), self.description.get("regions_class_order"))
        problems += impossible_regions(labels)
        self.problems += problems
        # Values that are not understood would be an error of every label map, too.
        return Labels(classes=()) if any(problem.fatal for problem in problems) else labels

    def training_cases(self) -> tuple[Case, ...]:
        """Those that are listed, or else those that the folders hold; in order of name."""
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
        self._compare_number(len(unique))
        groups = self.description.get("groups")
        if isinstance(groups, dict):
            unique = {
                name: case.model_copy(update={"group": str(groups.get(name, ""))}) for name, case in unique.items()
            }
        return tuple(unique[name] for name in sorted(unique))

    def _compare_number(self, found: int) -> None:
        """Warn where `numTraining` says otherwise and no error explains it."""
        said = self.description.get("numTraining")
        is_number = isinstance(said, int) and not isinstance(said, bool)
        if is_number and said != found and not any(problem.fatal for problem in self.problems):
            what = f'"numTraining" is {said}, but there are {found} training cases.'
            self.fail("dataset.json", what, "Look whether files are missing, or correct the number.", fatal=False)

    def _listed(self, listed: list[object]) -> list[Case]:
        """Cases of the MSD key `training`."""
        cases = []
        for number, entry in enumerate(listed):
            image_name = entry.get("image") if isinstance(entry, dict) else None
            label_name = entry.get("label") if isinstance(entry, dict) else None
            if not isinstance(image_name, str) or not isinstance(label_name, str):
                self.fail(
                    "dataset.json", f'entry {number} of "training" is {entry!r}.', 'Write {"image": ..., "label": ...}.'
                )
                continue
            self._used.update((self.folder / image_name, self.folder / label_name))
            image, label = self._inside(image_name), self._inside(label_name)
            if image is None or label is None:
                continue
            images, name = self._image_files(image), stem_of(image)
            self._used.update(images)
            if not images:
                self.fail(name, f"the image {image_name} does not exist.", _ADD, case=name)
            elif not label.is_file():
                self.fail(name, f"the label {label_name} does not exist.", _ADD, case=name)
            elif images == [image] or self._are_channels(name, images):
                cases.append(Case(name=name, images=tuple(map(str, images)), label=str(label)))
        return cases

    def _named(self, named: dict[str, object]) -> list[Case]:
        """Cases of nnU-Net v2's key `dataset`: the files of each by name."""
        cases = []
        for name, entry in named.items():
            images = entry.get("images") if isinstance(entry, dict) else None
            label = entry.get("label") if isinstance(entry, dict) else None
            files = [*images, label] if isinstance(images, list) else []
            if len(files) < 2 or not all(isinstance(file, str) for file in files):
                self.fail(
                    "dataset.json",
                    f'the entry "{name}" of "dataset" is {entry!r}.',
                    'Write {"images": [...], "label": ...}.',
                )
                continue
            paths = [self._inside(file) for file in files]
            for file, path in zip(files, paths, strict=True):
                if path is not None and not path.is_file():
                    self.fail(name, f"the file {file} does not exist.", _ADD, case=name)
            self._used.update(self.folder / file for file in files)
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
        bad = {problem.case for problem in self.problems} - {""}
        for number, (training, validation) in enumerate(splits):
            if strangers := sorted({*training, *validation} - known - bad):
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

    def _all_inside(self, name: str, paths: tuple[str, ...]) -> bool:
        """Whether no file is a link that leads out of the dataset."""
        root = self.folder.resolve()
        for path in paths:
            if not Path(path).resolve().is_relative_to(root):
                what = f"{path} is a link that leads out of the dataset."
                self.fail(name, what, "Copy the file into the folder.", case=name)
                return False
        return True

    def test_cases(self, training: tuple[Case, ...]) -> tuple[Case, ...]:
        """The images without labels of the folder imagesTs, stored as those for training are."""
        folder = self.folder / "imagesTs"
        whole = all(len(case.images) == 1 for case in training)
        found = images_in(folder, self.ending, self._channels, lambda _: whole) if folder.is_dir() else ()
        self._used.update(Path(path) for case in found for path in case.images)
        for case in found:
            if case.fault:
                self.fail(f"imagesTs: {case.name}", *case.fault, fatal=False)
        return tuple(case for case in found if self._all_inside(case.name, case.images))

    def find_unused(self) -> None:
        """Warn of what lies in the folders and belongs to no case."""
        for name in ("imagesTr", "labelsTr", "imagesTs"):
            self.problems += unused_files(self.folder / name, self._used, self.ending)

    def _image_files(self, image: Path) -> list[Path]:
        """The file itself, or its channel files (nnU-Net v1 lists `case.nii.gz` and stores `case_0000.nii.gz`)."""
        if image.is_file():
            return [image]
        folder = image.parent
        if folder not in self._numbered:
            self._numbered[folder] = split_numbers(list(folder.iterdir()) if folder.is_dir() else [])[0]
        parts = self._numbered[folder].get(stem_of(image), [])
        return [path for _, path in parts if path.name.endswith(image.name[len(stem_of(image)) :])]

    def _are_channels(self, name: str, images: list[Path]) -> bool:
        numbers = [number for path in images if (number := name_and_number(path)[1]) is not None]
        if are_channels(numbers, self._channels):
            return True
        self.fail(name, *wrong_numbers(numbers, self._channels), case=name)
        return False

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
        matched = match_folders(images, labels, self.ending, self._channels)
        self.problems += matched.problems
        self._used.update(matched.seen)
        return [case for case in matched.cases if self._all_inside(case.name, (*case.images, case.label or ""))]

"""`dataset.json`, in the forms of the Decathlon and of nnU-Net's versions 1 and 2."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from voxfit.core.errors import Problem, RecordError
from voxfit.core.records import read_json
from voxfit.imaging.files import CHANNEL_SUFFIX, Case, image_files_in, images_in
from voxfit.imaging.labels import Labels, read_labels
from voxfit.imaging.volume import FILE_ENDINGS, file_ending


class Description:
    """Reads one `dataset.json` and the file names beside it, collecting problems."""

    def __init__(self, folder: Path, description: dict[str, Any]) -> None:
        self.folder = folder
        self.description = description
        self.problems: list[Problem] = []
        self.ending = self._ending()
        self._channels: dict[Path, dict[tuple[str, str], tuple[str, ...]]] = {}

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

    def channel_names(self) -> tuple[str, ...]:
        """In the order of their numbers."""
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
        """The classes or regions."""
        labels, problems = read_labels(self.description.get("labels"), self.description.get("regions_class_order"))
        for what, remedy in problems:
            self.fail("dataset.json", what, remedy)
        return labels

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
                    case=name,
                )
            elif not label.is_file():
                self.fail(
                    name,
                    f"the label {entry['label']} does not exist.",
                    "Add the file or take the case out of dataset.json.",
                    case=name,
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
                    remedy = "Add it or take the case out of dataset.json."
                    self.fail(name, f"the file {file} does not exist.", remedy, case=name)
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

    def test_cases(self) -> tuple[Case, ...]:
        """The images without labels of the folder imagesTs."""
        folder = self.folder / "imagesTs"
        found = images_in(folder, self.ending) if folder.is_dir() else ()
        return tuple(case for case in found if self._all_inside(case.name, case.images))

    def _image_files(self, image: Path) -> tuple[tuple[str, ...], str]:
        """The file itself, or its channel files (nnU-Net v1 lists `case.nii.gz` and stores `case_0000.nii.gz`)."""
        ending = file_ending(image) or image.suffix
        stem = image.name[: len(image.name) - len(ending)]
        if image.is_file():
            return (str(image),), stem
        return self._channel_files(image.parent).get((stem, ending), ()), stem

    def _channel_files(self, folder: Path) -> dict[tuple[str, str], tuple[str, ...]]:
        """The files of a folder that are numbered as channels, by name without number and ending; read once."""
        if folder not in self._channels:
            found: dict[tuple[str, str], tuple[str, ...]] = {}
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                ending = file_ending(path) or path.suffix
                stem = path.name[: len(path.name) - len(ending)]
                if CHANNEL_SUFFIX.search(stem):
                    key = CHANNEL_SUFFIX.sub("", stem), ending
                    found[key] = (*found.get(key, ()), str(path))
            self._channels[folder] = found
        return self._channels[folder]

    def _check_numbers(self, case: Case) -> None:
        """Files of channels are numbered from 0 without gaps."""
        stems = [Path(path).name[: -len(file_ending(Path(path)))] for path in case.images]
        numbers = [int(match[1]) for stem in stems if (match := CHANNEL_SUFFIX.search(stem))]
        if numbers and numbers != list(range(len(numbers))):
            found = ", ".join(f"_{number:04d}" for number in numbers)
            self.fail(
                case.name,
                f"has the channel files {found}.",
                "Number them _0000, _0001, ... without gaps.",
                case=case.name,
            )

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
        by_name = {path.name[: -len(file_ending(path))]: path for path in image_files_in(labels, self.ending)}
        cases = []
        for case in images_in(images, self.ending):
            self._check_numbers(case)
            label = by_name.pop(case.name, None)
            if label is None:
                self.fail(case.name, "has no label file in labelsTr.", "Add it, or remove the image.", case=case.name)
            elif self._all_inside(case.name, (*case.images, str(label))):
                cases.append(case.model_copy(update={"label": str(label)}))
        for name in by_name:
            self.fail(name, "has a label but no image in imagesTr.", "Add the image, or remove the label.", case=name)
        return cases

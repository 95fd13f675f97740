"""A folder of labelled volumes: the Decathlon (MSD) and the nnU-Net v2 raw layout, read as they are.

Both have `dataset.json`, `imagesTr`, `labelsTr` and perhaps `imagesTs`. They differ in how channels are stored (one 4D
file, or one file a channel with the suffix `_0000`), in the key of the channel names (`modality`, `channel_names`)
and in the direction of `labels` (value to name, or name to value).
"""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from voxfit.core.errors import Problem, RecordError
from voxfit.core.records import read_json
from voxfit.imaging.dataset_json import Description
from voxfit.imaging.files import Case
from voxfit.imaging.headers import fault
from voxfit.imaging.labels import Labels
from voxfit.imaging.volume import check_text


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

    def without(self, names: Set[str]) -> Dataset:
        """The same without some of the training cases."""
        return replace(
            self,
            cases=tuple(case for case in self.cases if case.name not in names),
            splits=tuple(
                (tuple(name for name in training if name not in names), tuple(n for n in held if n not in names))
                for training, held in self.splits
            ),
            problems=tuple(problem for problem in self.problems if problem.case not in names),
        )

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


def _open(folder: Path, group_by: str | None) -> Dataset:
    if not folder.is_dir():
        raise fault(folder, "there is no such folder.", "Name the folder that holds dataset.json.")
    check_text(folder)
    path = folder / "dataset.json"
    if not path.is_file():
        raise fault(path, "there is no such file.", "A dataset needs it: see the README, section 'Your own data'.")
    try:
        description = read_json(path)
    except RecordError as error:
        raise fault(path, str(error).removeprefix(f"{path}: "), "Correct it.") from None
    if not isinstance(description, dict):
        raise fault(path, "holds no JSON object.", "Write an object with channel_names and labels.")
    reader = Description(folder, description)
    cases = reader.training_cases()
    splits = reader.splits({case.name for case in cases})
    test_cases = reader.test_cases(cases)
    reader.find_unused()
    if group_by is not None:
        cases = _grouped(cases, group_by)
    return Dataset(
        folder=folder,
        name=str(description.get("name") or folder.name),
        channel_names=reader.channel_names,
        labels=reader.labels,
        cases=cases,
        test_cases=test_cases,
        splits=splits,
        problems=tuple(reader.problems),
    )


def _grouped(cases: tuple[Case, ...], pattern: str) -> tuple[Case, ...]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise fault("--group-by", f"{pattern!r} is no regular expression ({error}).", "Correct it.") from None
    grouped = []
    for case in cases:
        match = expression.search(case.name)
        group = match and match.group(1 if expression.groups else 0)
        if not group:
            raise fault(case.name, f"--group-by {pattern!r} matches nothing in this name.", "Correct the expression.")
        grouped.append(case.model_copy(update={"group": group}))
    return tuple(grouped)

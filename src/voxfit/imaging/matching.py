"""Images and labels of two folders, matched by name; and what lies in a dataset's folders without being used."""

from __future__ import annotations

import os
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from voxfit.core.errors import Problem
from voxfit.imaging.files import (
    Case,
    group_channels,
    image_files_in,
    name_and_number,
    not_read,
    stem_of,
)
from voxfit.imaging.labels import some
from voxfit.imaging.volume import file_ending

_ADD_LABEL = "Add it, or remove the image."
_ADD_IMAGE = "Add the image, or remove the label."


@dataclass
class Matched:
    """What two folders hold.

    Attributes:
        cases: those with image and label.
        problems: of the others.
        seen: the files of both.
    """

    cases: list[Case] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    seen: set[Path] = field(default_factory=set)

    def fail(self, case: str, what: str, remedy: str, where: str = "") -> None:
        """Note a problem of a case, which could be left out instead."""
        self.problems.append(Problem(where or case, what, remedy, case=case))


def match_folders(images: Path, labels: Path, ending: str, channels: int | None) -> Matched:
    """The cases of two folders, each image with the label of its name.

    Names follow from `voxfit.imaging.files.group_channels`; where the digits at their ends could be either, numbers of
    channels or part of a name, labels tell.

    Args:
        images: folder of images.
        labels: folder of labels.
        ending: only files of this ending; empty for all that can be read.
        channels: of each image; None where it is unknown.
    """
    matched = Matched()
    files, label_files = image_files_in(images, ending), image_files_in(labels, ending)
    by_name: dict[str, Path] = {}
    for path in label_files:
        by_name.setdefault(stem_of(path), path)
    matched.seen.update(files, by_name.values())
    without = []
    for case in group_channels(files, channels, lambda path: stem_of(path) in by_name):
        label = by_name.pop(case.name, None)
        if label and case.fault:
            matched.fail(case.name, *case.fault)
        elif label:
            matched.cases.append(case.model_copy(update={"label": str(label)}))
        elif wrong := [found for path in case.images if (found := by_name.pop(stem_of(Path(path)), None))]:
            what = f"its label is named {wrong[0].name}, with the number of a channel."
            matched.fail(case.name, what, f"Rename it to {case.name}{file_ending(wrong[0])}.")
        else:
            without.append(case)
    others = _others(labels, matched.seen)
    for case in without:
        _explain(case.name, others, ending, "has no label file in labelsTr.", _ADD_LABEL, matched)
    others = _others(images, matched.seen)
    for name in by_name:
        _explain(name, others, ending, "has a label but no image in imagesTr.", _ADD_IMAGE, matched)
    _one_way_of_naming(matched)
    return matched


def _explain(name: str, others: dict[str, Path], ending: str, what: str, remedy: str, matched: Matched) -> None:
    """An image without label, or a label without image; where a file of this name does not count, that is why."""
    path = others.get(name)
    if path is None:
        matched.fail(name, what, remedy)
    else:
        matched.fail(name, *_why_not_read(path, ending), where=path.name)
        matched.seen.add(path)


def _others(folder: Path, seen: Set[Path]) -> dict[str, Path]:
    """The images of a folder that do not count, by name with and without the number of a channel."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path not in seen and not path.name.startswith(".") and (file_ending(path) or not_read(path)):
            found.setdefault(stem_of(path), path)
            found.setdefault(name_and_number(path)[0], path)
    return found


def _why_not_read(path: Path, ending: str) -> tuple[str, str]:
    """Why a file does not count, and what to do."""
    if reason := not_read(path):
        return reason
    if ending and file_ending(path) not in ("", ending):
        return f'"file_ending" is {ending}.', "Save all files with one ending."
    return "It belongs to no case.", "Take it out, or list it in dataset.json."


def _one_way_of_naming(matched: Matched) -> None:
    """Either all images have the number of a channel or none has: the rarer way is a mistake."""
    plain = [case for case in matched.cases if stem_of(Path(case.images[0])) == case.name]
    numbered = [case for case in matched.cases if stem_of(Path(case.images[0])) != case.name]
    if not plain or not numbered:
        return
    rarer = plain if len(plain) <= len(numbered) else numbered
    for case in rarer:
        path = Path(case.images[0])
        if rarer is plain:
            what = f"lacks the number of its channel (_0000); {len(numbered)} others have it."
            remedy = f"Rename it to {case.name}_0000{file_ending(path)}."
        else:
            what = f"has the number of a channel; {len(plain)} others have none."
            remedy = f"Rename it to {case.name}{file_ending(path)}, or store all images by channel."
        matched.fail(case.name, what, remedy, where=path.name)
    matched.cases = plain if rarer is numbered else numbered


def unused_files(folder: Path, used: Set[Path], ending: str) -> list[Problem]:
    """Warnings of what lies in a folder of a dataset and belongs to no case, one for each reason.

    Hidden files are left out, and so are those that go with an image: `x.json` or `x.raw` beside `x.tif` or `x.mhd`.

    Args:
        folder: need not be there.
        used: the files of cases, and those that an error has named.
        ending: only files of this ending count; empty for all that can be read.
    """
    if not folder.is_dir():
        return []
    # A file in a folder of this one uses that.
    names = {Path(os.path.relpath(path, folder)).parts[0] for path in used}
    images = {stem for name in names for stem in (stem_of(Path(name)), name_and_number(Path(name))[0])}
    reasons: dict[tuple[str, str], list[str]] = {}
    for path in sorted(folder.iterdir()):
        is_image = bool(file_ending(path) or not_read(path))
        if path.name in names or path.name.startswith(".") or (not is_image and stem_of(path) in images):
            continue
        reasons.setdefault(_why_not_read(path, ending), []).append(path.name)
    return [
        Problem(folder.name, f"{_not_used(names)} {what}", remedy, fatal=False)
        for (what, remedy), names in reasons.items()
    ]


def _not_used(names: Sequence[str]) -> str:
    return f"{len(names)} file{'s are' if len(names) > 1 else ' is'} not used: {some(names)}."

"""The labels of a dataset: classes, or regions that overlap, and perhaps voxels that nobody annotated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from voxfit.core.errors import Problem
from voxfit.core.records import Record

IGNORED = -2
"""Stands, inside voxfit, for voxels without annotation: no loss, no sampling, no evaluation there."""

MOST_VALUE = 2**31 - 1
"""Of a label: what the integers of all file formats hold."""

_EXAMPLE = 'Write for instance "labels": {"background": 0, "liver": 1}.'


class Label(Record):
    """One foreground class: its name and the integer that stands for it in label files."""

    name: str
    value: Annotated[int, Field(ge=0, le=MOST_VALUE)]


class Region(Record):
    """A structure that is the union of classes: "whole tumour" of its parts.

    Attributes:
        name: of the structure.
        values: of the classes that belong to it, in label files.
        paste: the value written where it is predicted; later regions overwrite earlier ones.
    """

    name: str
    values: tuple[int, ...]
    paste: int


class Labels(Record):
    """The foreground classes in order of their values; background is 0 and always there.

    Inside voxfit a class is its index (1..n), whatever its value in the files is.

    Attributes:
        classes: every value that label files hold.
        regions: what is trained, predicted and scored, where these are unions of classes; empty: the classes are.
        ignore: the value of voxels without annotation.
    """

    classes: tuple[Label, ...]
    regions: tuple[Region, ...] = ()
    ignore: int | None = None

    @property
    def values(self) -> tuple[int, ...]:
        """File values by class index, background first."""
        return (0, *(label.value for label in self.classes))

    @property
    def count(self) -> int:
        """Class indices: the foreground classes and background."""
        return len(self.classes) + 1

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the foreground classes, in order of their indices."""
        return tuple(label.name for label in self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of what is predicted and scored: the regions, or the foreground classes."""
        return tuple(region.name for region in self.regions) or self.class_names

    @property
    def members(self) -> tuple[tuple[int, ...], ...]:
        """The class indices that belong to each of `names`."""
        if not self.regions:
            return tuple((index,) for index in range(1, self.count))
        index_of = {value: index for index, value in enumerate(self.values)}
        return tuple(tuple(index_of[value] for value in region.values) for region in self.regions)

    @property
    def outputs(self) -> int:
        """Channels of the network's output: one a region (sigmoid), or one a class with background (softmax)."""
        return len(self.regions) or self.count

    def to_indices(self, array: NDArray[np.generic]) -> tuple[NDArray[np.int16], list[int]]:
        """Turn file values into class indices 0..n, `IGNORED` where nobody annotated.

        Returns:
            the indices (background where a value is unknown), and the unknown values.
        """
        known = dict(zip(self.values, range(self.count), strict=True))
        if self.ignore is not None:
            known[self.ignore] = IGNORED
        unknown = sorted(set(np.unique(array).tolist()) - set(known))
        if not unknown and all(value == index for value, index in known.items()):
            return array.astype(np.int16), []
        indices = np.zeros(array.shape, np.int16)
        for value, index in known.items():
            indices[array == value] = index
        return indices, unknown

    def decide(self, outputs: NDArray[np.floating[Any]], *, logits: bool = False) -> NDArray[np.integer[Any]]:
        """From the network's outputs to class indices.

        Args:
            outputs: (output, ...) probabilities, or logits: the most likely class; or, for regions, each region that
                is more likely than not, pasted in order.
            logits: which of the two.

        Returns:
            (...) class indices, in the smallest unsigned type that holds them.
        """
        kind = np.uint8 if self.count <= 256 else np.uint16
        if not self.regions:
            return _most(outputs, kind)
        indices = np.zeros(outputs.shape[1:], kind)
        for region, output in zip(self.regions, outputs, strict=True):
            indices[output > (0.0 if logits else 0.5)] = self.values.index(region.paste)
        return indices

    @staticmethod
    def from_description(labels: object, regions_class_order: object = None) -> Labels:
        """The labels of a `dataset.json`.

        Args:
            labels: its entry "labels": {"liver": 1} as in nnU-Net v2, or {"1": "liver"} as in the Decathlon; a list
                of values is a region, and "ignore" names the voxels without annotation.
            regions_class_order: its entry of this name, the values that are pasted for each region in turn.

        Raises:
            ValueError: what is wrong with it.
        """
        found, problems = read_labels(labels, regions_class_order)
        for problem in problems:
            if problem.fatal:
                raise ValueError(f"{problem.what} {problem.remedy}")
        return found


def _most(outputs: NDArray[np.floating[Any]], kind: type[np.unsignedinteger[Any]]) -> NDArray[np.integer[Any]]:
    """The index of the largest output, the first of equal ones; an argmax over the first axis that copies nothing."""
    indices = np.zeros(outputs.shape[1:], kind)
    most = outputs[0].copy()
    for index, output in enumerate(outputs[1:], start=1):
        np.copyto(indices, kind(index), where=output > most)
        np.maximum(most, output, out=most)
    return indices


def read_labels(labels: object, regions_class_order: object = None) -> tuple[Labels, list[Problem]]:
    """The labels of a `dataset.json` as far as they can be used, and what is wrong with them."""
    if labels is None:
        return Labels(classes=()), [_problem('"labels" is missing.', _EXAMPLE)]
    if not isinstance(labels, Mapping) or not labels:
        return Labels(classes=()), [_problem(f'"labels" is {labels!r}.', _EXAMPLE)]
    entries, problems = _entries(labels)
    ignore = entries.pop("ignore", None)
    problems += _background_problems(entries)
    structures = {name: numbers for name, numbers in entries.items() if numbers != (0,)}
    if not structures:
        return Labels(classes=()), [*problems, _problem("there is no label besides background.", _EXAMPLE)]
    if ignore is not None and (
        len(ignore) > 1 or not ignore[0] or any(ignore[0] in item for item in structures.values())
    ):
        problems.append(
            _problem(f'"ignore" has the value {list(ignore)}.', "Give it one value that no other label has.")
        )
    value = ignore[0] if ignore else None
    if any(len(numbers) > 1 for numbers in structures.values()):
        made, more = _regions(structures, regions_class_order)
    else:
        made, more = _classes({name: numbers[0] for name, numbers in entries.items()})
    return made.revised(ignore=value), problems + more


def _problem(what: str, remedy: str, *, fatal: bool = True) -> Problem:
    return Problem("dataset.json", what, remedy, fatal)


def _entries(labels: Mapping[object, object]) -> tuple[dict[str, tuple[int, ...]], list[Problem]]:
    """Names and values, whichever is the key; numbers may be strings."""
    problems: list[Problem] = []
    entries: dict[str, tuple[int, ...]] = {}
    for key, value in labels.items():
        # MSD writes {"1": "liver"}, nnU-Net v2 {"liver": 1}, or {"whole": [1, 2]}; some write {"liver": "1"}.
        swapped = isinstance(value, str) and (_is_value(key) or not _is_value(value))
        name, found = (str(value), key) if swapped else (str(key), value)
        numbers = found if isinstance(found, Sequence) and not isinstance(found, str) else [found]
        if not numbers or not all(map(_is_value, numbers)):
            shown = repr(found) if len(repr(found)) < 100 else f"{repr(found)[:97]}..."
            problems.append(
                _problem(f'the label "{name}" has the value {shown}.', "Values are whole numbers. " + _EXAMPLE)
            )
            continue
        if name in entries:
            problems.append(_problem(f'there are several labels "{name}".', "Give each its own name."))
        entries[name] = tuple(int(str(number)) for number in numbers)
    return entries, problems


def _background_problems(entries: Mapping[str, tuple[int, ...]]) -> list[Problem]:
    """0 is background, and background is 0."""
    problems = []
    for name, numbers in entries.items():
        is_background = name.strip().lower() == "background"
        if is_background and numbers != (0,):
            what = f'"{name}" has the value {numbers[0] if len(numbers) == 1 else list(numbers)}, but background is 0.'
            problems.append(_problem(what, "Give it the value 0, or the class another name."))
        if numbers == (0,) and not is_background:
            # The only name for what surrounds the classes, in datasets of membranes for instance: no error.
            what = f'the label "{name}" has the value 0, which is background: it is neither learned nor scored.'
            remedy = 'Name it "background", or give it another value in dataset.json and in the label files.'
            problems.append(_problem(what, remedy, fatal=False))
    return problems


def _is_value(number: object) -> bool:
    text = str(number) if isinstance(number, int | str) and not isinstance(number, bool) else ""
    return text.isdecimal() and len(text) <= 10 and int(text) <= MOST_VALUE


def _classes(values: dict[str, int]) -> tuple[Labels, list[Problem]]:
    repeated = [value for value, times in Counter(values.values()).items() if times > 1]
    problems = [_problem(f"several labels have the value {value}.", "Give each its own.") for value in repeated[:1]]
    ordered = sorted(values.items(), key=lambda pair: pair[1])
    return Labels(classes=tuple(Label(name=name, value=value) for name, value in ordered if value)), problems


def _regions(structures: dict[str, tuple[int, ...]], order: object) -> tuple[Labels, list[Problem]]:
    names = {numbers[0]: name for name, numbers in structures.items() if len(numbers) == 1}
    values = sorted({number for numbers in structures.values() for number in numbers} - {0})
    classes = tuple(Label(name=names.get(value, f"label {value}"), value=value) for value in values)
    example = f'Write "regions_class_order", a value of {some(values)} for each of {", ".join(structures)}.'
    if not isinstance(order, Sequence) or len(order) != len(structures) or not all(item in values for item in order):
        return Labels(classes=classes), [_problem(f'"regions_class_order" is {order!r}.', example)]
    regions = tuple(
        Region(name=name, values=numbers, paste=paste)
        for (name, numbers), paste in zip(structures.items(), order, strict=True)
    )
    if any(0 in region.values for region in regions):
        return Labels(classes=classes), [_problem("a region contains background (0).", "Take 0 out of it.")]
    return Labels(classes=classes, regions=regions), []


def impossible_regions(labels: Labels) -> list[Problem]:
    """Regions that no label map can hold, as they are pasted: where one is found without fault, it still gets lost.

    A voxel of a class gets the value of the last region that the class belongs to. That value must belong to the same
    regions as the class.
    """
    for value in labels.values[1:] if labels.regions else ():
        belongs = [region for region in labels.regions if value in region.values]
        written = belongs[-1].paste
        lost = [region.name for region in belongs if written not in region.values]
        gained = [region.name for region in labels.regions if region not in belongs and written in region.values]
        if lost or gained:
            what = f'"regions_class_order": voxels of the value {value} ({", ".join(item.name for item in belongs)}) '
            what += f"are written as {written}, the value of {belongs[-1].name}, which is pasted last; so "
            what += " and ".join(
                [f"{name} gets lost there" for name in lost] + [f"{name} comes out there" for name in gained]
            )
            remedy = "List regions from large to small, and give each a value of its own that is in no smaller one."
            return [_problem(f"{what}.", remedy)]
    return []


def some(values: Sequence[object]) -> str:
    """The first values of a list, for a message."""
    text = ", ".join(str(value) for value in values[:8])
    return text + (f" and {len(values) - 8} more" if len(values) > 8 else "")

"""The classes of a dataset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from voxfit.core.records import Record


class Label(Record):
    """One foreground class: its name and the integer that stands for it in label files."""

    name: str
    value: int


class Labels(Record):
    """The foreground classes in the order of the network's outputs 1, 2, ...; background is 0 and always there.

    Inside voxfit a class is its index (1..n), whatever its value in the files is.
    """

    classes: tuple[Label, ...]

    @property
    def values(self) -> tuple[int, ...]:
        """File values by index, background first."""
        return (0, *(label.value for label in self.classes))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the foreground classes, in order."""
        return tuple(label.name for label in self.classes)

    @property
    def count(self) -> int:
        """Network outputs: the foreground classes and background."""
        return len(self.classes) + 1

    def to_indices(self, array: NDArray[np.generic]) -> tuple[NDArray[np.int16], list[int]]:
        """Turn file values into class indices 0..n.

        Returns:
            the indices (background where a value is unknown), and the unknown values.
        """
        values = self.values
        unknown = sorted(set(np.unique(array).tolist()) - set(values))
        if not unknown and values == tuple(range(len(values))):
            return array.astype(np.int16), []
        indices = np.zeros(array.shape, np.int16)
        for index, value in enumerate(values):
            indices[array == value] = index
        return indices, unknown


def some(values: Sequence[int]) -> str:
    """The first values of a list, for a message."""
    text = ", ".join(str(value) for value in values[:8])
    return text + (f" and {len(values) - 8} more" if len(values) > 8 else "")

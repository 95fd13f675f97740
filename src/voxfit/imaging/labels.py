"""The classes of a dataset."""

from __future__ import annotations

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

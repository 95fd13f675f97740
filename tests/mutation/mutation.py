"""A mutation: a small fault that a careful reviewer fears, and the tests that should notice it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Mutation:
    """One change of the source.

    Attributes:
        file: what is changed, under src/voxfit.
        old: what stands there, exactly once.
        new: what stands there instead.
        tests: those that should notice: files under tests/, with blanks between them.
        meaning: what a user would suffer, in one line.
        only: pytest's -k, where a few tests of a slow file are enough.
        equivalent: why no test can notice; empty where one should.
    """

    file: str
    old: str
    new: str
    tests: str
    meaning: str
    only: str = ""
    equivalent: str = ""

    @property
    def room(self) -> str:
        """The room of the file, as docs/architecture.md has them."""
        return self.file.partition("/")[0] if "/" in self.file else "command line"

    @property
    def path(self) -> Path:
        """The file in a project folder."""
        return Path("src", "voxfit", self.file)

    @property
    def test_files(self) -> list[Path]:
        """The files of the tests."""
        return [ROOT / "tests" / name for name in self.tests.split()]

    @property
    def selection(self) -> tuple[str, ...]:
        """The tests, as arguments of pytest."""
        return (*(f"tests/{name}" for name in self.tests.split()), *(("-k", self.only) if self.only else ()))

    def widened(self) -> Mutation:
        """The same with all tests of its room."""
        folder = "" if self.room == "command line" else self.room
        found = sorted((ROOT / "tests" / folder).glob("test_*.py"))
        return replace(self, tests=" ".join(str(path.relative_to(ROOT / "tests")) for path in found), only="")

    def apply(self, source: str) -> str:
        """The changed source.

        Raises:
            ValueError: `old` is not there exactly once.
        """
        if (times := source.count(self.old)) != 1:
            raise ValueError(f"{self.file}: {self.old!r} is there {times} times")
        return source.replace(self.old, self.new)

    @cached_property
    def digest(self) -> str:
        """Changes with the mutation, the file that it changes and its tests, as these are when it is first wanted."""
        texts = [repr(self), (ROOT / self.path).read_text()]
        return digest_of([*texts, *(path.read_text() for path in self.test_files)])


def digest_of(texts: list[str]) -> str:
    """Sixteen hexadecimal digits."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]

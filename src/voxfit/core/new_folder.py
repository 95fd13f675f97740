"""Folders that are there whole, or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from voxfit.core.errors import UsageError, WorkspaceError


def require_new(output: Path) -> None:
    """Refuse to write into what is there.

    Raises:
        UsageError: naming it.
    """
    if output.exists():
        raise UsageError(f"{output}: is there already. Name another folder, or remove this one.")


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """A folder beside `output` to write into, which gets its name when the block ends without an error.

    What a killed process left of one is removed.

    Raises:
        WorkspaceError: a file in it cannot be written.
    """
    part = output.with_name(f".{output.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        part.rename(output)
    except OSError as error:
        raise WorkspaceError(
            f"{output}: cannot be written ({error.strerror}). Free space or choose another folder."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)

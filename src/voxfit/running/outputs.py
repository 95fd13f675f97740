"""What a folder of label maps was made from, so that a prediction that was ended goes on where it was.

A hidden folder `.voxfit` beside the label maps holds a line for each of them (`outputs.jsonl`): the label map by its
checksum, the images by name, size and time of change, and what the model is. A label map that fits its line is
not made again. While a prediction runs, the lock is there too: two of them do not write into one folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from voxfit.core.durability import sweep
from voxfit.core.errors import WorkspaceError
from voxfit.core.records import checksum_of, digest_of
from voxfit.imaging.files import Case
from voxfit.running.locking import locked

_FOLDER, _LINES = ".voxfit", "outputs.jsonl"


class Outputs:
    """The label maps of a folder. `open_outputs` makes one.

    Args:
        folder: of the label maps.
        made_by: see there.
    """

    def __init__(self, folder: Path, made_by: str) -> None:
        self.folder = folder
        self.made_by = made_by
        self._path = folder / _FOLDER / _LINES
        self._known = dict(_read(self._path))

    def is_done(self, case: Case, file: Path) -> bool:
        """Whether the label map `file` is there, whole, and made from these images by this model."""
        known = self._known.get(file.name)
        if known is None or known["made_from"] != self._origin(case) or not file.is_file():
            return False
        return bool(known["label"] == checksum_of(file))

    def mark_done(self, case: Case, file: Path) -> None:
        """Note what a finished label map was made from.

        Raises:
            WorkspaceError: the folder cannot be written.
        """
        line = {"file": file.name, "made_from": self._origin(case), "label": checksum_of(file)}
        self._known[file.name] = line
        try:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise WorkspaceError(f"{self._path}: cannot be written ({error.strerror}). Free space.") from error

    def _origin(self, case: Case) -> str:
        return digest_of([self.made_by, [_stamp(Path(image)) for image in case.images]])


@contextmanager
def open_outputs(folder: Path, made_by: str) -> Iterator[Outputs]:
    """The label maps of a folder, which no other process writes meanwhile.

    Args:
        folder: made where it is missing.
        made_by: digest of everything but the images that determines label maps: the model's description (of one that
            was trained again it differs, for its scores do) and how it predicts.

    Raises:
        WorkspaceError: another process is predicting into the folder, or it cannot be written.
    """
    beside = folder / _FOLDER
    try:
        beside.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkspaceError(
            f"{folder}: cannot be written ({error.strerror}). Choose another folder with -o."
        ) from None
    with locked(beside):
        sweep(folder)
        _end_last_line(beside / _LINES)
        yield Outputs(folder, made_by)


def _end_last_line(path: Path) -> None:
    """Cut off what a killed process wrote of a line."""
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)


def _read(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines by label file; later ones count. What is no line of ours is passed over."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    for text in lines:
        with suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict) and {"file", "made_from", "label"} <= line.keys():
                yield line["file"], line


def _stamp(path: Path) -> list[str | int]:
    try:
        status = path.stat()
    except OSError:
        return [path.name, -1, -1]
    return [path.name, status.st_size, status.st_mtime_ns]

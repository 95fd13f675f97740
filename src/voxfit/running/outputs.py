"""What a folder of label maps was made from, so that a prediction that was ended goes on where it was.

A hidden folder `.voxfit` beside the label maps holds a line for each of them (`outputs.jsonl`): the label map by its
checksum, the images by name, size and time of change, what the model is, and what speaks against trusting it. A label
map that fits its line is not made again. One that fits no line is not ours: another program wrote it, or somebody
corrected it, and it stays. So a line is written before its label map gets its name. While a prediction runs, the lock
is there too: two of them do not write into one folder.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from voxfit.core.durability import remove_partial_files, sync_folder
from voxfit.core.errors import Problem, WorkspaceError
from voxfit.core.records import checksum_of, digest_of, stamp
from voxfit.imaging.files import Case
from voxfit.running.locking import locked

_FOLDER, _LINES, _STAGE = ".voxfit", "outputs.jsonl", "new"
_REMEDY = "It stays as it is. Move it, choose another folder with -o, or replace it with --overwrite."
_REMEDY_BESIDE = (
    "It stays as it is, and its name is needed for what belongs to the label map. Move it, or choose another folder."
)


@dataclass(frozen=True)
class Found:
    """What is where a label map goes.

    Attributes:
        state: nothing; the label map that would be made; an older one of voxfit's; or what is not voxfit's to replace.
        caveats: of the label map, where it is the one that would be made.
        reason: why it is not to be replaced.
    """

    state: Literal["missing", "done", "outdated", "foreign"]
    caveats: tuple[str, ...] = ()
    reason: str = ""


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
        # By file name: every checksum that we gave it, with its line.
        self._known: defaultdict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        for line in _read(self._path):
            self._remember(line)

    def has_written(self, file: Path) -> bool:
        """Whether voxfit has written a file of this name, whatever became of it."""
        return file.name in self._known

    def look(self, case: Case, file: Path) -> Found:
        """What is where the label map of a case goes."""
        if not os.path.lexists(file):
            return Found("missing")
        if reason := self._foreign(file):
            return Found("foreign", reason=reason)
        line = self._known[file.name][checksum_of(file)]
        beside = [file.with_name(name) for name in line.get("beside", {})]
        for path in beside:
            if os.path.lexists(path) and (reason := self._foreign(path)):
                return Found("foreign", reason=reason)
        if line["inputs_digest"] != self._origin(case) or not all(path.is_file() for path in beside):
            return Found("outdated")
        return Found("done", tuple(map(str, line.get("caveats", ()))))

    def staged(self, file: Path) -> Path:
        """Where to write what `replace_durably` then gives the name `file`."""
        return self.folder / _FOLDER / _STAGE / file.name

    def replace_durably(
        self, case: Case, file: Path, caveats: Sequence[str] = (), *, overwrite: bool = False
    ) -> Problem | None:
        """Note what a finished label map was made from, and give it its name, with files that belong to it.

        Args:
            case: that it was made from.
            file: its name.
            caveats: what speaks against trusting it.
            overwrite: even where a file is that voxfit did not write; what lies beside it stays in any case.

        Returns:
            what is in the way; then nothing was replaced.

        Raises:
            WorkspaceError: the folder cannot be written.
        """
        staged = self.staged(file)
        beside = sorted(path for path in staged.parent.iterdir() if path != staged)
        line: dict[str, Any] = {
            "file": file.name,
            "inputs_digest": self._origin(case),
            "label": checksum_of(staged),
            "caveats": list(caveats),
        }
        if beside:
            line["beside"] = {path.name: checksum_of(path) for path in beside}
        for made in (*beside, staged):
            path = file.with_name(made.name)
            replaceable = overwrite and path == file and not path.is_dir()
            if not os.path.lexists(path) or replaceable or _same(made, path):
                continue
            if reason := self._foreign(path):
                shutil.rmtree(staged.parent)
                return Problem(str(path), reason, _REMEDY if path == file else _REMEDY_BESIDE)
        try:
            self._append(line)
            for path in (*beside, staged):  # the label map last: it says that all is there
                os.replace(path, file.with_name(path.name))
            sync_folder(file.parent)
        except OSError as error:
            raise WorkspaceError(f"{file}: cannot be written ({error.strerror}). Free space.") from error
        return None

    def _foreign(self, file: Path) -> str:
        """Why a file is not voxfit's to replace; empty where it is."""
        if not file.is_file():
            return "is there already, and is no file."
        if file.name not in self._known:
            return "is there already, and voxfit did not write it."
        return "" if checksum_of(file) in self._known[file.name] else "was changed after voxfit wrote it."

    def _append(self, line: dict[str, Any]) -> None:
        if self._known[line["file"]].get(line["label"]) == line:
            return  # a prediction that was killed before it could rename the file
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        self._remember(line)

    def _remember(self, line: dict[str, Any]) -> None:
        self._known[line["file"]][line["label"]] = line
        for name, checksum in line.get("beside", {}).items():
            self._known[name][checksum] = line

    def _origin(self, case: Case) -> str:
        return digest_of([self.made_by, [stamp(image) for image in case.images]])


def _same(one: Path, other: Path) -> bool:
    """Whether two files hold the same."""
    return other.is_file() and checksum_of(one) == checksum_of(other)


def problem_of(found: Found, file: Path) -> Problem:
    """What to say of a file that is not voxfit's to replace."""
    return Problem(str(file), found.reason, _REMEDY)


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
    try:
        with locked(beside):
            remove_partial_files(folder)
            shutil.rmtree(beside / _STAGE, ignore_errors=True)
            _end_last_line(beside / _LINES)
            try:
                yield Outputs(folder, made_by)
            finally:
                shutil.rmtree(beside / _STAGE, ignore_errors=True)
    finally:
        with suppress(OSError):  # it holds lines, or the lock of another
            beside.rmdir()


def _end_last_line(path: Path) -> None:
    """Cut off what a killed process wrote of a line."""
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)


def _read(path: Path) -> Iterator[dict[str, Any]]:
    """The lines, in order. What is no line of ours is passed over."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    for text in lines:
        with suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict) and all(
                isinstance(line.get(key), str) for key in ("file", "inputs_digest", "label")
            ):
                beside, caveats = line.get("beside", {}), line.get("caveats", [])
                if isinstance(beside, dict) and isinstance(caveats, list):
                    yield line

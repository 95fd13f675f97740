"""Frozen, strict values with one JSON form: the small artefacts of a run.

A record is saved atomically (built beside its place, then renamed) and carries `schema`, so that a file that is
something else, or of another version, is named as such.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer
from typing_extensions import Self

from voxfit.core.durability import UNFINISHED, sync_folder
from voxfit.core.errors import RecordError, UsageError, WorkspaceError

MOST_JSON_BYTES = 64 * 2**20
"""No description is longer, nor any record but those that say otherwise; a longer file is refused before it is read."""


class Record(BaseModel):
    """Base of all records: immutable, no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)
    schema_name: ClassVar[str] = ""
    most_bytes: ClassVar[int] = MOST_JSON_BYTES

    def to_json(self) -> str:
        """The readable JSON form, with `schema` first."""
        body: dict[str, Any] = {"schema": self.schema_name} if self.schema_name else {}
        body |= self.model_dump(mode="json")
        return _compact(body) + "\n"

    def digest(self) -> str:
        """Sixteen hexadecimal digits that change when the content does."""
        return digest_of(self.model_dump(mode="json"))

    def revised(self, **changes: Any) -> Self:
        """A copy in which some values are others; it is validated like any other.

        Raises:
            RecordError: it would not hold what it must.
        """
        values = {name: getattr(self, name) for name in type(self).model_fields}
        try:
            return self.model_validate(values | changes)
        except ValidationError as error:
            raise RecordError(f"{type(self).__name__}: {explain(error)}") from None

    def save(self, path: Path, *, durable: bool = True) -> None:
        """Write the JSON form to `path` in one step: readers see the old file or the whole new one."""
        write_atomically(path, self.to_json().encode(), durable=durable)

    def keep(self, path: Path) -> None:
        """Write it where the file does not say the same already."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if path.read_text(encoding="utf-8") == self.to_json():
                return
        self.save(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a record.

        Raises:
            RecordError: naming file, key and reason.
        """
        try:
            _check_size(path, cls.most_bytes)
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise RecordError(f"{path}: there is no such file.") from None
        except (OSError, UnicodeDecodeError) as error:
            raise RecordError(f"{path}: cannot be read ({error}).") from error
        return cls.from_json(text, str(path))

    @classmethod
    def require_replaceable(cls, path: Path) -> None:
        """Refuse a place for this record where something else is: only another of its kind may be replaced.

        Raises:
            UsageError: naming it.
        """
        kind = cls.schema_name.partition("/")[0]
        refuse_foreign(path, lambda head: re.match(rf'\s*{{\s*"schema": "{re.escape(kind)}/', head) is not None)

    @classmethod
    def from_json(cls, text: str, where: str = "JSON") -> Self:
        """Parse the JSON form; `where` names its origin in errors."""
        try:
            body = json.loads(text)
        except (ValueError, RecursionError) as error:  # a ValueError also of integers with thousands of digits
            raise RecordError(f"{where}: is not valid JSON ({error}). Restore the file or delete it.") from error
        if not isinstance(body, dict):
            raise RecordError(f"{where}: holds a {type(body).__name__}, not an object.")
        found = body.pop("schema", None)
        if cls.schema_name and found != cls.schema_name:
            raise RecordError(f'{where}: "schema" is {found!r}, but {cls.schema_name!r} is needed here.')
        try:
            return cls.model_validate_json(json.dumps(body))
        except ValidationError as error:
            raise RecordError(f"{where}: {explain(error)}") from None


class Sparse(Record):
    """A record that leaves out some values where they are empty, so that one without them keeps the form it had."""

    left_out: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_empty(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        body: dict[str, Any] = dump(self)
        return {key: value for key, value in body.items() if value or key not in self.left_out}


class Made(Record):
    """A record that says what it was made from: a digest of everything that determines its content."""

    inputs_digest: str = ""


def refuse_foreign(path: Path, is_own: Callable[[str], bool]) -> None:
    """Refuse to replace a file that voxfit did not write.

    Args:
        path: where it would be; nothing need be there.
        is_own: takes the beginning of its text.

    Raises:
        UsageError: naming it.
    """
    if not os.path.lexists(path):
        return
    try:
        with path.open("rb") as stream:
            head = stream.read(4096).decode(errors="replace")
    except OSError as error:
        raise UsageError(
            f"{path}: is there already, and cannot be read ({error.strerror}). Name another file."
        ) from None
    if not is_own(head):
        raise UsageError(f"{path}: is there already, and is nothing that voxfit wrote here. Name another file with -o.")


def explain(error: ValidationError) -> str:
    """The problems of a pydantic validation in one line: key, reason, what was found."""
    parts = []
    for item in error.errors(include_url=False):
        key = ".".join(str(step) for step in item["loc"]) or "the record"
        given = "" if item["type"] == "missing" else f" (found {str(item['input'])[:60]!r})"
        parts.append(f"{key}: {item['msg']}{given}")
    return "; ".join(parts)


def digest_of(value: Any) -> str:
    """Sixteen hexadecimal digits of the canonical JSON (sorted keys, no spaces) of `value`."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def write_atomically(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file in one step, on the disk before it gets its name.

    Args:
        path: its place.
        content: of it.
        durable: also after a power cut; not needed where the whole folder is brought to the disk later.

    Raises:
        WorkspaceError: the folder cannot be written or the disk is full; nothing half-made is left behind.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        if durable:
            sync_folder(path.parent)
    except OSError as error:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
        raise WorkspaceError(
            f"{path}: cannot be written ({error.strerror}). Free space or choose another folder."
        ) from error


def read_json(path: Path) -> Any:
    """Parse a foreign JSON file of bounded size.

    Raises:
        RecordError: naming the file and the reason.
    """
    try:
        _check_size(path, MOST_JSON_BYTES)
        value = json.loads(path.read_text(encoding="utf-8-sig"))
        json.dumps(value, ensure_ascii=False).encode()  # "\\ud800" is half a character: no record could hold it
        return value
    except FileNotFoundError:
        raise RecordError(f"{path}: there is no such file.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path}: is not readable JSON ({error}).") from error


def _check_size(path: Path, most: int) -> None:
    if (size := path.stat().st_size) > most:
        raise RecordError(
            f"{path}: has {size >> 20} MiB, more than {most >> 20} MiB; this is no description. Restore the file."
        )


def _compact(value: Any, indent: int = 0) -> str:
    """JSON with an item a line, but lists of plain values (shapes, spacings) on one line."""
    pad, inner = " " * indent, " " * (indent + 1)
    if isinstance(value, dict) and value:
        rows = [f"{inner}{json.dumps(str(key))}: {_compact(item, indent + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{pad}}}"
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return "[\n" + ",\n".join(inner + _compact(item, indent + 1) for item in value) + f"\n{pad}]"
    return json.dumps(value, ensure_ascii=False)


def checksum_of(path: Path) -> str:
    """SHA-256 of a file's content.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def stamp(path: str | Path) -> list[str | int]:
    """Name, size and time of change of a file: what tells at once whether it is the one it was."""
    path = Path(path)
    try:
        status = path.stat()
    except OSError:
        return [path.name, -1, -1]
    return [path.name, status.st_size, status.st_mtime_ns]

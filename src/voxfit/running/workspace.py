"""The run folder: artefacts are built aside and renamed, older ones set aside, and one process writes at a time."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from voxfit.core.errors import WorkspaceError

_LOCK = "lock.json"


class Workspace:
    """Paths and housekeeping of one run folder.

    Args:
        root: the folder; made where it is missing.

    Raises:
        WorkspaceError: it cannot be made or written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
            probe = root / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise WorkspaceError(
                f"{root}: cannot be written ({error.strerror}). Choose another folder with -o."
            ) from None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing here; a lock that a dead process of this host left is taken over.

        Raises:
            WorkspaceError: another process holds it; the message names it.
        """
        path = self.root / _LOCK
        body = json.dumps(
            {"host": socket.gethostname(), "process": os.getpid(), "since": datetime.now(timezone.utc).isoformat()}
        )
        while True:
            try:
                handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
                break
            except FileExistsError:
                self._remove_stale(path)
        try:
            with os.fdopen(handle, "w") as stream:
                stream.write(body)
            yield
        finally:
            path.unlink(missing_ok=True)

    def _remove_stale(self, path: Path) -> None:
        try:
            holder = json.loads(path.read_text())
            host, process, since = holder["host"], int(holder["process"]), holder["since"]
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError):
            host, process, since = socket.gethostname(), 0, "?"  # cut short by a crash
        if host == socket.gethostname() and not _alive(process):
            path.unlink(missing_ok=True)
            return
        raise WorkspaceError(
            f"{self.root}: process {process} on {host} has been writing here since {since}. Wait for it or end it; "
            f"if it no longer exists, delete {path}."
        )

    @contextmanager
    def building(self, folder: Path, made_from: str) -> Iterator[Path]:
        """Build a folder artefact aside; it gets its name when the block ends without an error.

        What an interrupted block left is there again the next time, if it was made from the same.

        Args:
            folder: the artefact's final place.
            made_from: digest of what determines it.
        """
        part = folder.parent / f".{folder.name}.part-{made_from}"
        for other in folder.parent.glob(f".{folder.name}.part-*"):
            if other != part:
                shutil.rmtree(other)
        part.mkdir(parents=True, exist_ok=True)
        yield part
        self.set_aside(folder)
        part.rename(folder)

    def set_aside(self, path: Path) -> Path | None:
        """Move an artefact that no longer fits into `superseded/`; nothing a user waited for is deleted."""
        if not path.exists():
            return None
        stamp = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
        relative = path.relative_to(self.root)
        number = 0
        while (target := self.root / "superseded" / f"{stamp}.{number}" / relative).exists():
            number += 1
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
        return target


def _alive(process: int) -> bool:
    if process <= 0 or process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

"""One writer in a folder at a time.

`filelock` decides who that is. Where the system can lock files, a lock ends with its process, however that ends, and is
never stale; some cluster disks cannot, and there a file that only one process can create decides. `lock.json` names the
writer, for whoever is refused, and on disks that several machines see, whose locks one does not know of another. A
process that is gone holds nothing, nor does one whose number now belongs to a program that began later. Processes of
other machines cannot be looked at: their locks are respected.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from voxfit.core.errors import RecordError, WorkspaceError
from voxfit.core.records import Record

LOCK, _FILE, _OWNER = "lock.json", ".lock", ".lock.owner"
_WAIT_SECONDS = 0.5
"""For whoever is just leaving."""


class Holder(Record):
    """Who writes into a folder.

    Attributes:
        host: name of the machine.
        boot: what the system calls its present start; empty where it does not say.
        process: number.
        started: when the process began, in the system's own units; 0 where it does not say.
        since: when it took the folder, UTC.
    """

    host: str
    boot: str = ""
    process: int
    started: int = 0
    since: str

    @classmethod
    def this_process(cls) -> Holder:
        """The one that asks."""
        return cls(
            host=socket.gethostname(),
            boot=_boot(),
            process=os.getpid(),
            started=_started(os.getpid()),
            since=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        )

    def is_here(self) -> bool:
        """Whether it is, or was, a process of this machine."""
        return self.host == socket.gethostname()

    def may_live(self) -> bool:
        """False only where it is known to have ended."""
        if not self.is_here():
            return True
        if self.boot != _boot():
            return False
        return _exists(self.process) and self.started == _started(self.process)


def read_holder(folder: Path) -> Holder | None:
    """Whom the lock file of a folder names; None where there is none, or a crash has cut it short."""
    return _load(folder / LOCK)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes, and other threads of this one, from writing into a folder.

    Raises:
        WorkspaceError: another process has the folder; the message names it. Or the lock cannot be written.
    """
    try:
        lock = _acquire(folder)
    except OSError as error:
        raise WorkspaceError(f"{folder}: cannot be written ({error.strerror}). Choose another folder.") from None
    try:
        found = read_holder(folder)
        if found and (_is_elsewhere(found) or (found.started and found.may_live())):
            raise WorkspaceError(_refusal(folder, found))
        try:
            Holder.this_process().save(folder / LOCK)
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)
    finally:
        with suppress(OSError):  # Windows does not remove an open file
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _acquire(folder: Path) -> BaseFileLock:
    """The lock of a folder, held.

    Raises:
        OSError: nothing can be written there.
    """
    path = folder / _FILE
    was_there = path.exists()
    try:
        return _held(FileLock(path, _WAIT_SECONDS, thread_local=False), folder)
    except PermissionError:
        raise
    except OSError:  # disks that cannot lock files say so in several ways
        if not was_there:
            path.unlink(missing_ok=True)
        return _held(SoftFileLock(folder / _OWNER, _WAIT_SECONDS, thread_local=False), folder)


def _held(lock: BaseFileLock, folder: Path) -> BaseFileLock:
    try:
        lock.acquire()
    except Timeout:
        raise WorkspaceError(_refusal(folder, read_holder(folder))) from None
    return lock


def _load(path: Path) -> Holder | None:
    with suppress(RecordError):
        return Holder.load(path)
    return None


def _is_elsewhere(found: Holder) -> bool:
    """Whether locks of the holder may be unknown to this machine; containers on one machine share them."""
    return not found.is_here() and not (found.boot and found.boot == _boot())


def _refusal(folder: Path, found: Holder | None) -> str:
    if found is None:
        return f"{folder}: another process is writing here. Wait for it or end it."
    text = (
        f"{folder}: process {found.process} on {found.host} has been writing here since {found.since}. "
        "Wait for it or end it"
    )
    return text + ("." if found.is_here() else f"; if it no longer exists, delete {folder / LOCK}.")


def _boot() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _started(process: int) -> int:
    """When a process began, in ticks since the system did (Linux); the name before it may hold spaces."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    return 0


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return process > 0

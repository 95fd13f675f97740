"""One writer in a folder at a time.

The file `lock.json` names the writer. Where the system can lock files (`flock`), the lock on a file beside it decides:
it ends with its process, however that ends, so it is never stale, and no two processes can take it over. Some cluster
disks cannot do this; there the name decides. A process that is gone holds nothing, nor does one whose number now
belongs to a program that began later. Processes of other machines cannot be looked at: their locks are respected.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from threading import get_ident

from voxfit.core.durability import UNFINISHED
from voxfit.core.errors import RecordError, WorkspaceError
from voxfit.core.records import Record

LOCK, _FILE = "lock.json", ".lock"
_ATTEMPTS, _PAUSE_SECONDS = 5, 0.1
_REMOVING_SECONDS = 10.0
"""Removing a stale lock takes less, but for a process that was killed while it did."""


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
        handle = _acquire(folder)
    except OSError as error:
        raise WorkspaceError(f"{folder}: cannot be written ({error.strerror}). Choose another folder.") from None
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)  # before the lock on it ends: later it may be another's
        with suppress(OSError):  # Windows does not remove an open file
            (folder / _FILE).unlink(missing_ok=True)
        os.close(handle)


def _acquire(folder: Path) -> int:
    """The handle of the locked file, after `lock.json` names this process."""
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE_SECONDS)
        handle = os.open(folder / _FILE, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            can_lock = _lock_file(handle)
            if not _is_there(handle, folder / _FILE):  # whoever had it has just removed it
                raise BlockingIOError
            found = read_holder(folder)
            if found and (_is_elsewhere(found) if can_lock else found.may_live()):
                raise WorkspaceError(_refusal(folder, found))
            if can_lock:
                Holder.this_process().save(folder / LOCK)
            else:
                _claim(folder)
            return handle
        except BlockingIOError:
            os.close(handle)
        except BaseException:
            os.close(handle)
            raise
    raise WorkspaceError(_refusal(folder, read_holder(folder)))


def _lock_file(handle: int) -> bool:
    """Lock an open file; False where the system or the disk cannot.

    Raises:
        BlockingIOError: another process has locked it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _is_there(handle: int, path: Path) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _claim(folder: Path) -> None:
    """Name this process in `lock.json` where files cannot be locked: a link is made by one process alone.

    Raises:
        BlockingIOError: another process was quicker.
    """
    path, mine = folder / LOCK, folder / f".{LOCK}.{os.getpid()}.{get_ident()}{UNFINISHED}"
    Holder.this_process().save(mine)
    try:
        if path.exists():
            _remove_stale(path, mine)
        os.link(mine, path)
    except (FileExistsError, FileNotFoundError):
        raise BlockingIOError from None
    finally:
        mine.unlink(missing_ok=True)


def _remove_stale(path: Path, mine: Path) -> None:
    """Remove a lock whose process is gone. One process at a time does so, or it might be the next one's lock by then.

    Raises:
        FileExistsError: the lock is held, or another process is at it.
        FileNotFoundError: the lock is gone.
    """
    removing = path.with_name(f".{LOCK}.removing{UNFINISHED}")
    with suppress(FileNotFoundError):  # of a process that was killed in the lines below
        if time.time() - removing.stat().st_mtime > _REMOVING_SECONDS and not (
            (old := _load(removing)) and old.may_live()
        ):
            removing.unlink()
    os.link(mine, removing)
    try:
        content = path.read_text(encoding="utf-8", errors="replace")  # at once: what is there next may be another's
        with suppress(RecordError):
            if Holder.from_json(content).may_live():
                raise FileExistsError
        path.unlink()
    finally:
        removing.unlink(missing_ok=True)


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

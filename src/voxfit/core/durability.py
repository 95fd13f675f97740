"""Files and folders that survive a power cut: they are on the disk before they get their names."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNFINISHED = ".unfinished"
"""Part of the name of what a killed process may leave half-written; such a name begins with a dot."""

_WAITING = 8
"""Files whose content is brought to the disk at the same time."""


def put_in_place(temporary: Path, path: Path) -> None:
    """Give a whole new file its name: afterwards, also after a power cut, `path` is the old file or the new one.

    Raises:
        OSError: the disk is full or fails.
    """
    sync_file(temporary)
    os.replace(temporary, path)
    sync_folder(path.parent)


def save_array(path: Path, array: NDArray[Any], *, durable: bool = True) -> None:
    """Write an array as `.npy` in one step.

    Args:
        path: its place.
        array: what to write.
        durable: also after a power cut; not needed where the whole folder is brought to the disk later.

    Raises:
        OSError: the disk is full or fails; nothing half-made has the name.
    """
    import numpy as np

    temporary = path.with_name(f".{path.name}{UNFINISHED}")
    try:
        with temporary.open("wb") as stream:
            np.save(stream, array)
        if durable:
            sync_file(temporary)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on the disk; this is where a network disk tells that it is full."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can do that."""
    with contextlib.suppress(OSError):  # Windows and some network disks cannot
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sync_tree(folder: Path) -> None:
    """Wait until everything in a folder is on the disk."""
    # One after the other, each file waits for the disk's journal; together they wait for it once.
    with ThreadPoolExecutor(_WAITING) as pool:
        for parent, _, names in os.walk(folder):
            for _synced in pool.map(sync_file, [Path(parent, name) for name in names]):
                pass
            sync_folder(Path(parent))


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written; for whoever holds the lock of the folder."""
    for path in folder.rglob(f".*{UNFINISHED}*"):
        path.unlink(missing_ok=True)

"""Files and folders that survive a power cut: they are on the disk before they get their names."""

from __future__ import annotations

import contextlib
import math
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from voxfit.core.errors import WorkspaceError

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNFINISHED = ".unfinished"
"""Part of the name of what a killed process may leave half-written; such a name begins with a dot."""

_WAITING = 8
"""Files whose content is brought to the disk at the same time."""

_NPY = re.compile(
    rb"\x93NUMPY\x01\x00(?P<length>..)"
    rb"\{'descr': '(?P<dtype>[<>|][biuf]\d+)', 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>\d+,|\d+(?:, \d+)+)\), \} *\n",
    re.DOTALL,
)
"""How a `.npy` file of numbers begins."""
_NPY_BYTES = 1024
"""Its header takes fewer, also where each of 32 axes has a size of 19 digits."""


def replace_durably(temporary: Path, path: Path) -> None:
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


def open_array(path: Path, remedy: str) -> NDArray[Any]:
    """Map an array of numbers that `save_array` wrote; threads may do this at the same time.

    `np.load` parses the header with `ast.literal_eval`, which threads must not before Python 3.11.8 and 3.12.2: a
    garbage collection inside of it lets another thread in (python/cpython#106905).

    Args:
        path: of the file.
        remedy: what to do where it is damaged.

    Returns:
        a read-only memory map.

    Raises:
        WorkspaceError: it is not there, cut short, or no such file.
    """
    import numpy as np

    try:
        with path.open("rb") as stream:
            header = _NPY.match(stream.read(_NPY_BYTES))
            there = os.fstat(stream.fileno()).st_size
        if header is None or header.end() != header.end("length") + int.from_bytes(header["length"], "little"):
            raise ValueError("it does not begin as an array of numbers")
        kind = np.dtype(header["dtype"].decode())
        shape = tuple(int(size) for size in re.findall(rb"\d+", header["shape"]))
        whole = header.end() + math.prod(shape) * kind.itemsize
        if there != whole:
            raise ValueError(f"it has {there} bytes in place of {whole}")
        order: Literal["C", "F"] = "F" if header["fortran"] == b"True" else "C"
        return np.memmap(path, kind, "r", header.end(), shape, order)
    except (OSError, ValueError, TypeError) as error:  # the last of a type that does not exist, "<f3"
        raise WorkspaceError(f"{path}: cannot be read ({error}). {remedy}") from None


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


def remove_partial_files(folder: Path) -> None:
    """Remove what killed processes left half-written; for whoever holds the lock of the folder."""
    for path in folder.rglob(f".*{UNFINISHED}*"):
        path.unlink(missing_ok=True)

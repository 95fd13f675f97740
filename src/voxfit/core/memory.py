"""How much memory this process uses, and giving it back."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from pathlib import Path

UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
"""Bytes."""

_MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD of glibc's malloc.h."""
_RETURNED_BYTES = 2**20
"""Blocks from this size on are returned."""


def used_bytes() -> int:
    """What this process holds in memory now (where the system does not say so: the most it ever held)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        # macOS counts bytes, the others KiB.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return pages * os.sysconf("SC_PAGE_SIZE")


def return_freed_memory() -> None:
    """Let large blocks go back to the system as soon as they are freed, for the rest of this process.

    Left alone, glibc keeps freed blocks of up to 32 MiB, and their gaps make a process half as large again as what it
    uses. Going without costs some percent of the time of a network. Other C libraries have no such switch.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _RETURNED_BYTES)


def trim_memory() -> None:
    """Give freed memory back to the system now, where the C library can (glibc)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)

"""How much memory this process uses; sizes in words."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
"""Bytes."""


def used_bytes() -> int:
    """What this process holds in memory now (where the system does not say so: the most it ever held)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        # macOS counts bytes, the others KiB.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return pages * os.sysconf("SC_PAGE_SIZE")


def in_words(size: float) -> str:
    """ "1.5 GiB"."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"

"""What image files promise, looked at before SimpleITK reads them.

SimpleITK chooses its reader by content, opens whatever file a header names for the voxels, allocates what a header
claims, and crashes on some. So the reader follows from the ending of the name, voxels come from the file itself or from
one beside it, and lengths are compared with sizes first. This module has what the checks of all formats share.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from voxfit.core.errors import DatasetError, Problem

INCOMPLETE = "The file is incomplete: copy it again from its source."

MOST_HEADER = 1 << 20
_SPACINGS = (1e-9, 1e6)
_MOST_COMPRESSED = 4096
"""No format here packs more bytes of voxels into one byte: deflate reaches 1032, LZW less than 2800."""


@dataclass(frozen=True)
class Source:
    """Where the voxels of a file are.

    Attributes:
        length: bytes that are there for them.
        packed: whether they may be compressed.
    """

    length: int
    packed: bool


def check_spacing(spacing: Sequence[float], where: str) -> None:
    """Whether lengths of voxels, (x, y, z) in mm, are positive; SimpleITK would take a negative one as positive.

    Raises:
        DatasetError: they are not, or absurd.
    """
    if not all(_SPACINGS[0] <= size <= _SPACINGS[1] for size in spacing):
        shown = ", ".join(f"{size:.4g}" for size in spacing)
        raise fault(where, f"has the spacing {shown} (x, y, z).", "Correct the header: it must be positive, and in mm.")


def check_claim(path: Path, source: Source, voxels: int, bytes_each: int) -> None:
    """Compare what a header claims with what there is, before memory is taken.

    Args:
        path: for the message.
        source: where the voxels are.
        voxels: that the header claims, all channels.
        bytes_each: of one of them in the file.

    Raises:
        DatasetError: the file is too short for it, or the machine's memory too small.
    """
    if voxels < 1:
        raise fault(path, "has no voxels.", "Replace or remove the file.")
    needed, most = voxels * bytes_each, source.length * (_MOST_COMPRESSED if source.packed else 1)
    if needed > most:
        what = f"its header promises {needed} bytes of voxels, but there are {source.length}"
        raise fault(path, what + (" (compressed)." if source.packed else "."), INCOMPLETE)
    check_memory(path, voxels)


def check_memory(path: Path, voxels: int) -> None:
    """Refuse an image that this machine could not hold as float32.

    Raises:
        DatasetError: it is larger than the memory.
    """
    needed, memory = voxels * 4, memory_bytes()
    if needed > memory:
        what = f"{voxels} voxels take {needed / 2**30:.0f} GiB, but this machine has {memory / 2**30:.0f} GiB."
        raise fault(path, what, "Look at the file's header, or cut or resample the image.")


def complex_voxels(where: str) -> DatasetError:
    """The error for voxels that are complex numbers."""
    return fault(where, "its voxels are complex numbers.", "Save their magnitude.")


def memory_bytes() -> int:
    """The memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 40


def bytes_of(pixel: str) -> int:
    """Bytes of a number by SimpleITK's name of a pixel type ("64-bit float", "vector of 8-bit unsigned integer")."""
    bits = re.search(r"(\d+)-bit", pixel)
    return math.ceil(int(bits[1]) / 8) if bits else 1


def fault(where: Path | str, what: str, remedy: str) -> DatasetError:
    """The error that is raised for an unusable file: where, what the fact is, and what to do."""
    return DatasetError(Problem(str(where), what, remedy))

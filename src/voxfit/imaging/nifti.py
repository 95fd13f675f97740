"""NIfTI files, checked before SimpleITK reads them.

SimpleITK reads a truncated `.nii.gz` as a volume that ends in zeros, NaN as 0, and for `a.nii.gz` the voxels of `a.nii`
where that is there too, without a word. So lengths and floating-point voxels are looked at here.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np

from voxfit.core.errors import DatasetError, Problem
from voxfit.imaging.headers import INCOMPLETE, check_spacing

_HEADER = 352
_CHUNK = 1 << 20
_MOST_DEFLATED = 1100
"""More than deflate can pack into one byte."""
_MOST_BEYOND = 16 << 20
"""Padding behind the voxels; more of it is a bomb."""
_FLOAT_TYPES = {16: "f4", 64: "f8"}
_TYPE_BYTES = {
    **{2: 1, 4: 2, 8: 4, 16: 4, 32: 8, 64: 8, 128: 3, 256: 1, 512: 2, 768: 4},
    **{1024: 8, 1280: 8, 1536: 16, 1792: 16, 2048: 32, 2304: 4},
}
"""NIfTI's numbers of types."""


@dataclass(frozen=True)
class _Header:
    """What a NIfTI header promises: where voxels start, how many bytes they take, their type if it is a float."""

    offset: int
    voxel_bytes: int
    float_type: np.dtype[np.floating[Any]] | None


def check_nifti(path: Path, ending: str) -> None:
    """Compare a NIfTI file with its header: length, checksum where it is compressed, NaN where it holds floats.

    Args:
        path: the file.
        ending: of its name, ".nii" or ".nii.gz".

    Raises:
        DatasetError: something is missing or wrong.
        OSError: it cannot be read.
    """
    where = str(path)
    with path.open("rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
    if compressed and ending == ".nii":
        raise DatasetError(Problem(where, "is compressed, but its name says otherwise.", "Name it .nii.gz."))
    _check_alone(path, ending)
    try:
        with gzip.open(path, "rb") if compressed else path.open("rb") as stream:
            header = _parse_header(stream.read(_HEADER), where)
            length = path.stat().st_size
            if header.voxel_bytes > length * (_MOST_DEFLATED if compressed else 1):
                what = f"its header promises {header.voxel_bytes} bytes of voxels, but there are {length}"
                raise DatasetError(Problem(where, what + (" (compressed)." if compressed else "."), INCOMPLETE))
            stream.read(header.offset - _HEADER)
            missing, bad = _scan(stream, header)
            beyond = _read_on(stream) if compressed else 0
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DatasetError(Problem(where, f"the compressed data are damaged ({error}).", INCOMPLETE)) from None
    if missing:
        what = f"{missing} of the {header.voxel_bytes} bytes that its header promises are missing."
        raise DatasetError(Problem(where, what, INCOMPLETE))
    if beyond > _MOST_BEYOND:
        what = f"goes on for more than {_MOST_BEYOND >> 20} MiB behind its last voxel."
        raise DatasetError(Problem(where, what, "Save it again."))
    if bad:
        what = f"{bad} voxels are NaN or infinite."
        raise DatasetError(Problem(where, what, "Replace them (by 0, say) and save it again."))


def _scan(stream: BufferedIOBase, header: _Header) -> tuple[int, int]:
    """Read the voxels in chunks: bytes that are missing, and voxels that are no numbers."""
    left, bad = header.voxel_bytes, 0
    while left > 0 and (chunk := stream.read(min(left, _CHUNK))):
        left -= len(chunk)
        if header.float_type is not None:
            whole = len(chunk) // header.float_type.itemsize
            bad += int((~np.isfinite(np.frombuffer(chunk, header.float_type, whole))).sum())
    return left, bad


def _read_on(stream: BufferedIOBase) -> int:
    """Read to the end, where the checksum stands, but not for ever: the bytes that were read."""
    beyond = 0
    while beyond <= _MOST_BEYOND and (chunk := stream.read(_CHUNK)):
        beyond += len(chunk)
    return beyond


def _check_alone(path: Path, ending: str) -> None:
    """For `a.nii.gz`, SimpleITK reads the header of this file, but the voxels of `a.nii` where that is there too."""
    beside = path.name[: -len(ending)] + ".nii"
    if ending == ".nii.gz" and path.with_name(beside).exists():
        what = f"{beside} lies beside it, and only one of the two can be meant."
        raise DatasetError(Problem(str(path), what, "Remove one of them."))


def _parse_header(header: bytes, where: str) -> _Header:
    """Read the header of a NIfTI-1 or NIfTI-2 file, in either byte order."""
    for order in "<>":
        size = struct.unpack_from(order + "i", header, 0)[0] if len(header) >= 348 else 0
        if size == 348:
            dim, spacing = struct.unpack_from(order + "8h", header, 40), struct.unpack_from(order + "8f", header, 76)
            datatype = struct.unpack_from(order + "h", header, 70)[0]
            offset, magic = struct.unpack_from(order + "f", header, 108)[0], header[344:348]
        elif size == 540:
            dim, spacing = struct.unpack_from(order + "8q", header, 16), struct.unpack_from(order + "8d", header, 104)
            datatype = struct.unpack_from(order + "h", header, 12)[0]
            offset, magic = struct.unpack_from(order + "q", header, 168)[0], header[4:8]
        else:
            continue
        sensible = 1 <= dim[0] <= 7 and min(dim[1 : dim[0] + 1]) > 0 and datatype in _TYPE_BYTES
        if sensible and _HEADER <= offset < 1 << 24 and magic in (b"n+1\0", b"n+2\0"):
            check_spacing(spacing[1 : min(dim[0], 3) + 1], where)
            kind = _FLOAT_TYPES.get(datatype)
            voxel_bytes = math.prod(dim[1 : dim[0] + 1]) * _TYPE_BYTES[datatype]
            return _Header(int(offset), voxel_bytes, np.dtype(order + kind) if kind else None)
        break
    raise DatasetError(
        Problem(where, "is not a NIfTI file (its header makes no sense).", "Replace or remove the file.")
    )

"""NIfTI files, checked before SimpleITK reads them.

SimpleITK reads a truncated `.nii.gz` as a volume that ends in zeros, NaN as 0, and for `a.nii.gz` the voxels of `a.nii`
where that is there too, without a word. So lengths and floating-point voxels are looked at here.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass, replace
from functools import partial
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Literal

import numpy as np

from voxfit.imaging.geometry import Geometry
from voxfit.imaging.headers import INCOMPLETE, check_memory, check_spacing, complex_voxels, fault
from voxfit.imaging.itk_reader import ItkReader

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
_COMPLEX_TYPES = {32, 1792, 2048}
_COLOURS = {128: 3, 2304: 4}


_FIELDS = {
    "sizeof_hdr": (("i4", 0), ("i4", 0)),
    "dim": (("8i2", 40), ("8i8", 16)),
    "datatype": (("i2", 70), ("i2", 12)),
    "bitpix": (("i2", 72), ("i2", 14)),
    "pixdim": (("8f4", 76), ("8f8", 104)),
    "vox_offset": (("f4", 108), ("i8", 168)),
    "scl_slope": (("f4", 112), ("f8", 176)),
    "xyzt_units": (("u1", 123), ("i4", 500)),
    "qform_code": (("i2", 252), ("i4", 344)),
    "sform_code": (("i2", 254), ("i4", 348)),
    "qform": (("6f4", 256), ("6f8", 352)),
    "sform": (("12f4", 280), ("12f8", 400)),
    "magic": (("V4", 344), ("V8", 4)),
}
"""The fields used here, by NIfTI's names: type and first byte in NIfTI-1, then in NIfTI-2.

`qform` stands for the six numbers from `quatern_b` to `qoffset_z`, `sform` for the twelve from `srow_x` to `srow_z`.
"""


def _header_type(length: int, version: int) -> np.dtype[np.void]:
    """A header of `length` bytes, with the four behind it that announce extensions."""
    types, places = zip(*(field[version - 1] for field in _FIELDS.values()), strict=True)
    return np.dtype({"names": list(_FIELDS), "formats": types, "offsets": places, "itemsize": length + 4})


_HEADER_TYPES = {348: _header_type(348, version=1), 540: _header_type(540, version=2)}
"""NIfTI-1 and NIfTI-2, by the length of their headers."""

_BYTE_ORDERS: tuple[Literal["<", ">"], ...] = ("<", ">")
_FARTHEST_MM = 1e9


@dataclass(frozen=True)
class Header:
    """What a NIfTI header says.

    Attributes:
        fields: by NIfTI's names, in the byte order of the file.
        order: of the bytes of a number, "<" or ">".
        dim: number of axes, then voxels along x, y, z, ...
        offset: where voxels start.
        voxel_bytes: how many bytes they take.
        numbers: how many they are, each colour one.
        float_type: their type if it is a float.
        is_complex: they are complex numbers.
    """

    fields: np.void
    order: str
    dim: tuple[int, ...]
    offset: int
    voxel_bytes: int
    numbers: int
    float_type: np.dtype[np.floating[Any]] | None
    is_complex: bool

    @property
    def codes(self) -> tuple[int, int]:
        """Of qform and sform; a form counts where its code is above 0."""
        return int(self.fields["qform_code"]), int(self.fields["sform_code"])


def check_nifti(path: Path, *, header_only: bool = False) -> None:
    """Compare a NIfTI file with its header: length, checksum where it is compressed, NaN where it holds floats.

    What it leaves unsaid can be read: it fits into memory, and holds real numbers.

    Args:
        path: the file.
        header_only: leave the voxels unread.

    Raises:
        DatasetError: something is missing or wrong.
        OSError: it cannot be read.
    """
    where = str(path)
    with path.open("rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
    if compressed and path.suffix.lower() != ".gz":
        raise fault(where, "is compressed, but its name says otherwise.", "Name it .nii.gz.")
    _check_alone(path)
    try:
        with gzip.open(path, "rb") if compressed else path.open("rb") as stream:
            header = _read_header(stream, where)
            length = path.stat().st_size
            if header.voxel_bytes > length * (_MOST_DEFLATED if compressed else 1):
                what = f"its header promises {header.voxel_bytes} bytes of voxels, but there are {length}"
                raise fault(where, what + (" (compressed)." if compressed else "."), INCOMPLETE)
            missing = bad = beyond = 0
            if not header_only:
                stream.read(header.offset - header.fields.nbytes)
                missing, bad = _scan(stream, header)
                beyond = _read_on(stream) if compressed else 0
    except EOFError:
        what = "the compressed data are damaged: they end too early."
        raise fault(where, what, INCOMPLETE) from None
    except (zlib.error, gzip.BadGzipFile):
        what = "the compressed data are damaged: their checksum or their form is wrong."
        raise fault(where, what, "Copy the file again from its source.") from None
    if missing:
        what = f"{missing} of the {header.voxel_bytes} bytes that its header promises are missing."
        raise fault(where, what, INCOMPLETE)
    if beyond > _MOST_BEYOND:
        what = f"goes on for more than {_MOST_BEYOND >> 20} MiB behind its last voxel."
        raise fault(where, what, "Save it again.")
    if bad:
        what = f"{bad} voxels are NaN or infinite."
        raise fault(where, what, "Replace them (by 0, say) and save it again.")
    if header.is_complex:
        raise complex_voxels(where)
    check_memory(path, header.numbers)


def read_header(path: Path) -> Header:
    """The header of a NIfTI file.

    Raises:
        DatasetError: it makes no sense.
        OSError, EOFError, zlib.error: it cannot be read.
    """
    with path.open("rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
    with gzip.open(path, "rb") if compressed else path.open("rb") as stream:
        return _read_header(stream, str(path))


def _scan(stream: BufferedIOBase, header: Header) -> tuple[int, int]:
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


def _check_alone(path: Path) -> None:
    """For `a.nii.gz`, SimpleITK reads the header of this file, but the voxels of `a.nii` where that is there too."""
    beside = path.name[: -len(".nii.gz")] + ".nii"
    if path.suffix.lower() == ".gz" and path.with_name(beside).exists():
        what = f"{beside} lies beside it, and only one of the two can be meant."
        raise fault(path, what, "Remove one of them.")


def _read_header(stream: BufferedIOBase, where: str) -> Header:
    """Read the header of a NIfTI-1 or NIfTI-2 file, in either byte order."""
    start = stream.read(4)
    for order in _BYTE_ORDERS:
        form = _HEADER_TYPES.get(struct.unpack(order + "i", start)[0]) if len(start) == 4 else None
        if form is None:
            continue
        content = start + stream.read(form.itemsize - 4)
        if len(content) < form.itemsize:
            break
        fields = np.frombuffer(content, form.newbyteorder(order))[0]
        dim, spacing = tuple(fields["dim"].tolist()), fields["pixdim"].tolist()
        datatype, offset = int(fields["datatype"]), fields["vox_offset"].item()
        sensible = 1 <= dim[0] <= 7 and min(dim[1 : dim[0] + 1]) > 0 and datatype in _TYPE_BYTES
        magic = fields["magic"].tobytes()[:4] in (b"n+1\0", b"n+2\0")
        if not (sensible and magic and form.itemsize <= offset < 1 << 24):
            break
        check_spacing(spacing[1 : min(dim[0], 3) + 1], where)
        _check_forms(fields, where)
        kind = _FLOAT_TYPES.get(datatype)
        voxels = math.prod(dim[1 : dim[0] + 1])
        return Header(
            fields,
            order,
            dim,
            int(offset),
            voxels * _TYPE_BYTES[datatype],
            voxels * _COLOURS.get(datatype, 1),
            np.dtype(order + kind) if kind else None,
            datatype in _COMPLEX_TYPES,
        )
    raise fault(where, "is not a NIfTI file (its header makes no sense).", "Replace or remove the file.")


def _check_forms(fields: np.void, where: str) -> None:
    """SimpleITK never comes back from some infinite numbers in these."""
    for name in ("qform", "sform"):
        values = fields[name].tolist()
        if fields[f"{name}_code"] > 0 and not all(abs(value) <= _FARTHEST_MM for value in values):
            what = f"its {name} has numbers that place it nowhere ({', '.join(f'{value:.3g}' for value in values)})."
            raise fault(where, what, f"Correct the {name} in its header.")


def _with_direction(path: Path, geometry: Geometry) -> Geometry:
    """The geometry of a NIfTI file, whose direction is known where its header has a qform or an sform."""
    return replace(geometry, oriented=max(read_header(path).codes) > 0)


NIFTI = ItkReader(
    (".nii.gz", ".nii"), "NiftiImageIO", check_nifti, partial(check_nifti, header_only=True), _with_direction
)

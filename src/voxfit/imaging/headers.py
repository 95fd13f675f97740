"""What image files promise, looked at before SimpleITK reads them.

SimpleITK chooses its reader by content, opens whatever file a header names for the voxels, allocates what a header
claims, reads a truncated TIFF as a shorter stack and a truncated BMP as black. So the reader follows from the ending
here, voxels come from the file itself or from one beside it, and lengths are compared with sizes first.
"""

from __future__ import annotations

import math
import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from voxfit.core.errors import DatasetError, Problem

READERS = {
    ".nii.gz": "NiftiImageIO",
    ".nii": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
    ".png": "PNGImageIO",
    ".tif": "TIFFImageIO",
    ".tiff": "TIFFImageIO",
    ".bmp": "BMPImageIO",
}
"""SimpleITK's reader for each ending."""

INCOMPLETE = "The file is incomplete: copy it again from its source."

MOST_HEADER = 1 << 20
_SPACINGS = (1e-9, 1e6)
_MOST_COMPRESSED = 4096
"""No format here packs more bytes of voxels into one byte: deflate reaches 1032, LZW less than 2800."""

_NRRD_DATA = re.compile(rb"^[ \t]*data[ \t]*file[ \t]*:", re.MULTILINE | re.IGNORECASE)
_NRRD_RAW = re.compile(rb"^[ \t]*encoding[ \t]*:[ \t]*raw", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """Where the voxels of a file are.

    Attributes:
        length: bytes that are there for them.
        packed: whether they may be compressed.
    """

    length: int
    packed: bool


def locate_voxels(path: Path, ending: str) -> Source:
    """Read the text or the directory of an NRRD, TIFF, PNG or BMP file, and compare it with the file's length.

    Raises:
        DatasetError: the file is incomplete, or its voxels are elsewhere.
        OSError: it cannot be read.
    """
    length = path.stat().st_size
    if ending == ".nrrd":
        with path.open("rb") as stream:
            header = stream.read(MOST_HEADER)
        if _NRRD_DATA.search(header):
            raise _fault(path, "its header names another file for the voxels.", "Save it with the voxels inside.")
        end = re.search(rb"\r?\n\r?\n", header)
        return Source(length - (end.end() if end else 0), packed=_NRRD_RAW.search(header) is None)
    if ending in (".tif", ".tiff"):
        with path.open("rb") as stream:
            _check_tiff(path, stream, length)
    if ending == ".png":
        with path.open("rb") as stream:
            _check_png(path, stream)
    if ending == ".bmp":
        _check_bmp(path, length)
    return Source(length, packed=True)


def check_spacing(spacing: Sequence[float], where: str) -> None:
    """Whether lengths of voxels, (x, y, z) in mm, are positive; SimpleITK would take a negative one as positive.

    Raises:
        DatasetError: they are not, or absurd.
    """
    if not all(_SPACINGS[0] <= size <= _SPACINGS[1] for size in spacing):
        shown = ", ".join(f"{size:.4g}" for size in spacing)
        raise DatasetError(
            Problem(where, f"has the spacing {shown} (x, y, z).", "Correct the header: it must be positive, and in mm.")
        )


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
    needed, most = voxels * bytes_each, source.length * (_MOST_COMPRESSED if source.packed else 1)
    if needed > most:
        what = f"its header promises {needed} bytes of voxels, but there are {source.length}"
        raise _fault(path, what + (" (compressed)." if source.packed else "."), INCOMPLETE)
    check_memory(path, voxels)


def check_memory(path: Path, voxels: int) -> None:
    """Refuse an image that this machine could not hold as float32.

    Raises:
        DatasetError: it is larger than the memory.
    """
    needed, memory = voxels * 4, memory_bytes()
    if needed > memory:
        what = f"{voxels} voxels take {needed / 2**30:.0f} GiB, but this machine has {memory / 2**30:.0f} GiB."
        raise _fault(path, what, "Look at the file's header, or cut or resample the image.")


def memory_bytes() -> int:
    """Of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 40


def _fault(path: Path, what: str, remedy: str) -> DatasetError:
    return DatasetError(Problem(str(path), what, remedy))


# -- PNG, BMP and TIFF --


def _check_png(path: Path, stream: BinaryIO) -> None:
    """Walk from chunk to chunk: libpng takes memory for whatever length a chunk claims."""
    if stream.read(8) != b"\x89PNG\r\n\x1a\n":
        raise _fault(path, "is not a PNG file.", "Replace or remove the file.")
    left = path.stat().st_size - 8
    kind = b""
    while kind != b"IEND":
        start = stream.read(8)
        length = int.from_bytes(start[:4], "big") if len(start) == 8 else left
        if length + 12 > left:
            raise _fault(path, "it ends before its last chunk.", INCOMPLETE)
        kind, content, check = start[4:], stream.read(length), stream.read(4)
        if zlib.crc32(content, zlib.crc32(kind)) != int.from_bytes(check, "big"):
            raise _fault(path, "a checksum in it is wrong.", "Copy it again from its source.")
        left -= length + 12


def _check_bmp(path: Path, length: int) -> None:
    with path.open("rb") as stream:
        header = stream.read(54)
    if len(header) < 54 or header[:2] != b"BM":
        raise _fault(path, "is not a BMP file.", "Replace or remove the file.")
    start, width, height, bits, packing = (
        struct.unpack_from(form, header, place)[0]
        for form, place in (("<I", 10), ("<i", 18), ("<i", 22), ("<H", 28), ("<I", 30))
    )
    if width <= 0 or height == 0 or bits not in (1, 4, 8, 16, 24, 32):
        raise _fault(path, "is not a BMP file (its header makes no sense).", "Replace or remove the file.")
    if packing in (0, 3) and start + (width * bits + 31) // 32 * 4 * abs(height) > length:
        raise _fault(path, "it ends before its last line of pixels.", INCOMPLETE)


_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TIFF_WHOLE = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_STRIPS, _TILES = (273, 279), (324, 325)


@dataclass(frozen=True)
class _Tiff:
    """The sizes of a TIFF's numbers: 4 bytes an offset, or 8 in a BigTIFF."""

    order: str
    big: bool

    @property
    def offset(self) -> str:
        return self.order + ("Q" if self.big else "I")

    @property
    def count(self) -> str:
        return self.order + ("Q" if self.big else "H")

    @property
    def entry(self) -> str:
        return self.order + ("HHQ8s" if self.big else "HHI4s")


def _check_tiff(path: Path, stream: BinaryIO, length: int) -> None:
    """Walk from page to page: libtiff takes a missing page for the end."""
    start = stream.read(16)
    form = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}.get(start[:4])
    if form is None or len(start) < 16:
        raise _fault(path, "is not a TIFF file.", "Replace or remove the file.")
    tiff = _Tiff(*form)
    (offset,) = struct.unpack_from(tiff.offset, start, 8 if tiff.big else 4)
    seen: set[int] = set()
    try:
        while offset:
            if offset in seen:
                raise _fault(path, f"page {len(seen) + 1} leads back to an earlier one.", "Save it again.")
            seen.add(offset)
            stream.seek(offset)
            offset = _check_page(tiff, stream, length)
    except EOFError:
        raise _fault(path, f"it ends before the end of page {max(len(seen), 1)}.", INCOMPLETE) from None
    if not seen:
        raise _fault(path, "has no page.", "Replace or remove the file.")


def _check_page(tiff: _Tiff, stream: BinaryIO, length: int) -> int:
    """Whether the values and the pixels of a page lie inside the file; returns where the next page starts."""
    (entries,) = _take(stream, tiff.count)
    if entries > 4096:
        raise EOFError
    size = struct.calcsize(tiff.entry)
    table = _read_exactly(stream, entries * size)
    (following,) = _take(stream, tiff.offset)
    places: dict[int, tuple[int, ...]] = {}
    for tag, kind, count, inline in struct.iter_unpack(tiff.entry, table):
        needed = count * _TIFF_SIZES.get(kind, 1)
        (elsewhere,) = struct.unpack(tiff.offset, inline)
        if needed > len(inline) and elsewhere + needed > length:
            raise EOFError
        if tag in (*_STRIPS, *_TILES) and kind in _TIFF_WHOLE:
            values = inline
            if needed > len(inline):
                stream.seek(elsewhere)
                values = _read_exactly(stream, needed)
            places[tag] = struct.unpack_from(f"{tiff.order}{count}{_TIFF_WHOLE[kind]}", values)
    if any(end > length for end in _ends(places)):
        raise EOFError
    return int(following)


def _ends(places: dict[int, tuple[int, ...]]) -> Iterator[int]:
    for starts, counts in (_STRIPS, _TILES):
        for start, count in zip(places.get(starts, ()), places.get(counts, ()), strict=False):
            yield start + count


def _take(stream: BinaryIO, form: str) -> Sequence[int]:
    return struct.unpack(form, _read_exactly(stream, struct.calcsize(form)))


def _read_exactly(stream: BinaryIO, count: int) -> bytes:
    content = stream.read(count)
    if len(content) < count:
        raise EOFError
    return content


def bytes_of(pixel: str) -> int:
    """Bytes of a number by SimpleITK's name of a pixel type ("64-bit float", "vector of 8-bit unsigned integer")."""
    bits = re.search(r"(\d+)-bit", pixel)
    return math.ceil(int(bits[1]) / 8) if bits else 1

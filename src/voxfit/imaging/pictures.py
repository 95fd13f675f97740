"""PNG, BMP and TIFF files, checked before SimpleITK reads them.

libtiff takes a missing page for the end of the file. SimpleITK reserves memory for a stack by its first page alone, and
for a BMP by its header alone; longer pages or lines are then written beyond that memory. So every page must be like the
first and as long as it says.
"""

from __future__ import annotations

import json
import math
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from voxfit.core.errors import RecordError, UsageError
from voxfit.core.records import read_json, write_atomically
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.headers import INCOMPLETE, Source, fault
from voxfit.imaging.itk_reader import ItkReader, without_direction

_REPLACE = "Replace or remove the file."
_SAVE = "Save it again, as one grey or RGB image a page."


def _check_png(path: Path, stream: BinaryIO) -> None:
    """Walk from chunk to chunk: libpng takes memory for whatever length a chunk claims."""
    if stream.read(8) != b"\x89PNG\r\n\x1a\n":
        raise fault(path, "is not a PNG file.", _REPLACE)
    left = path.stat().st_size - 8
    kind = b""
    while kind != b"IEND":
        start = stream.read(8)
        length = int.from_bytes(start[:4], "big") if len(start) == 8 else left
        if length + 12 > left:
            raise fault(path, "it ends before its last chunk.", INCOMPLETE)
        kind, content, check = start[4:], stream.read(length), stream.read(4)
        if zlib.crc32(content, zlib.crc32(kind)) != int.from_bytes(check, "big"):
            raise fault(path, "a checksum in it is wrong.", "Copy it again from its source.")
        left -= length + 12


def _check_bmp(path: Path, stream: BinaryIO) -> None:
    header = stream.read(54)
    if len(header) < 54 or header[:2] != b"BM":
        raise fault(path, "is not a BMP file.", _REPLACE)
    start, size, width, height = struct.unpack_from("<IIii", header, 10)
    bits, packing = struct.unpack_from("<HI", header, 28)
    (colours,) = struct.unpack_from("<I", header, 46)
    if packing or bits not in (8, 24, 32):
        what = f"is a BMP of {bits} bits, compression {packing}; only uncompressed ones of 8, 24 or 32 bits are read."
        raise fault(path, what, "Save it as PNG.")
    table = 4 * (colours or 256) if bits == 8 else 0
    if width <= 0 or height == 0 or size < 40 or colours > 256 or start < 14 + size + table:
        raise fault(path, "is not a BMP file (its header makes no sense).", _REPLACE)
    stream.seek(start)
    pixels = stream.read()
    if (width * bits + 31) // 32 * 4 * abs(height) > len(pixels):
        raise fault(path, "it ends before its last line of pixels.", INCOMPLETE)
    if bits == 8 and max(pixels) >= (colours or 256):
        raise fault(path, f"has pixels beyond its {colours} colours.", "Save it as PNG.")


_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WHOLE = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_ROLE, _OLD_ROLE, _WIDTH, _HEIGHT, _BITS, _PACKING, _COLOUR = 254, 255, 256, 257, 258, 259, 262
_SAMPLES, _ROWS, _PLANES, _FORMAT = 277, 278, 284, 339
_STRIPS, _TILES, _TILE_SIZE = (273, 279), (324, 325), (322, 323)
_READ = (*range(254, 260), _COLOUR, *_STRIPS, _SAMPLES, _ROWS, _PLANES, *_TILE_SIZE, *_TILES, _FORMAT)
_DEFAULTS = {_ROLE: (0,), _OLD_ROLE: (1,), _BITS: (1,), _PACKING: (1,), _SAMPLES: (1,), _PLANES: (1,), _FORMAT: (1,)}
_ALIKE = (_ROLE, _OLD_ROLE, _WIDTH, _HEIGHT, _BITS, _SAMPLES, _COLOUR, _PLANES, _FORMAT)


class _Tiff(NamedTuple):
    """How a kind of TIFF writes its numbers, as formats of `struct`; `number` is that of the tags of a page."""

    order: str
    offset: str
    number: str
    entry: str


_TIFFS = {
    b"II*\0": _Tiff("<", "<I", "<H", "<HHI4s"),
    b"MM\0*": _Tiff(">", ">I", ">H", ">HHI4s"),
    b"II+\0": _Tiff("<", "<Q", "<Q", "<HHQ8s"),
    b"MM\0+": _Tiff(">", ">Q", ">Q", ">HHQ8s"),
}

Tags = dict[int, tuple[int, ...]]


class _SenselessPageError(Exception):
    """A page that is no grey or RGB image; the message says why, after "page N"."""


def _check_tiff(path: Path, stream: BinaryIO) -> None:
    """Walk from page to page."""
    start = stream.read(16)
    tiff = _TIFFS.get(start[:4])
    if tiff is None or len(start) < 16:
        raise fault(path, "is not a TIFF file.", _REPLACE)
    length = path.stat().st_size
    (offset,) = struct.unpack_from(tiff.offset, start, struct.calcsize(tiff.offset))  # at byte 4, or 8 in a BigTIFF
    seen: set[int] = set()
    first: Tags = {}
    try:
        while offset or not seen:
            if offset in seen:
                raise _SenselessPageError("leads back to an earlier one")
            seen.add(offset)
            if offset >= length:
                raise EOFError
            stream.seek(offset)
            page, offset = _read_page(tiff, length, stream)
            first = first or page
            _check_page(length, page)
            if any(page.get(tag) != first.get(tag) for tag in _ALIKE):
                raise _SenselessPageError("is of another size or kind than the first")
    except EOFError:
        raise fault(path, f"it ends before the end of page {max(len(seen), 1)}.", INCOMPLETE) from None
    except _SenselessPageError as error:
        raise fault(path, f"page {max(len(seen), 1)} {error}.", _SAVE) from None


def _read_page(tiff: _Tiff, length: int, stream: BinaryIO) -> tuple[Tags, int]:
    """The tags of a page that say where and how its pixels are, and where the next page starts (0: there is none).

    Raises:
        EOFError: the page reaches beyond the `length` of the file.
        _SenselessPageError: it is no directory of tags.
    """
    (entries,) = _take(stream, tiff.number)
    if not 1 <= entries <= 4096:
        raise _SenselessPageError("is no directory")
    table = _read_exactly(stream, entries * struct.calcsize(tiff.entry))
    (following,) = _take(stream, tiff.offset)
    tags: Tags = {}
    for tag, kind, count, inline in struct.iter_unpack(tiff.entry, table):
        needed = count * _SIZES.get(kind, 1)
        (elsewhere,) = struct.unpack(tiff.offset, inline)
        if needed > len(inline) and elsewhere + needed > length:
            raise EOFError
        if tag not in _READ:
            continue
        if kind not in _WHOLE or tag in tags or not count:
            raise _SenselessPageError(f"has a strange tag {tag}")
        values = inline
        if needed > len(inline):
            stream.seek(elsewhere)
            values = _read_exactly(stream, needed)
        tags[tag] = struct.unpack_from(f"{tiff.order}{count}{_WHOLE[kind]}", values)
    return {**_DEFAULTS, **tags}, int(following)


def _check_page(length: int, tags: Tags) -> None:
    """Whether a page is one that SimpleITK reads without harm, and its pixels lie in the file."""
    single = (_WIDTH, _HEIGHT, _PACKING, _COLOUR, _SAMPLES, _PLANES)
    if any(len(tags.get(tag, ())) != 1 or not (tags[tag][0] or tag == _COLOUR) for tag in single):
        raise _SenselessPageError("lacks its size or kind of colours")
    if tags[_ROLE] not in ((0,), (2,)) or tags[_OLD_ROLE] not in ((1,), (3,)):
        raise _SenselessPageError("is a thumbnail or a mask")  # which SimpleITK counts in one place and not in another
    samples, bits = tags[_SAMPLES][0], tags[_BITS]
    least = {0: 1, 1: 1, 2: 3, 3: 1}.get(tags[_COLOUR][0])
    if least is None or not least <= samples <= 4 or (tags[_COLOUR][0] == 3 and (samples != 1 or bits != (8,))):
        raise _SenselessPageError("has colours that are not read")
    if len(bits) not in (1, samples) or len(set(bits)) != 1 or bits[0] not in (8, 16, 32, 64):
        raise _SenselessPageError("has bits that are not read")
    if len(tags[_FORMAT]) not in (1, samples) or len(set(tags[_FORMAT])) != 1 or tags[_PLANES][0] not in (1, 2):
        raise _SenselessPageError("has numbers that are not read")
    _check_pieces(length, tags)


def _check_pieces(length: int, tags: Tags) -> None:
    """Whether a page has the strips or tiles that it needs, inside of the file and long enough."""
    tiled = _TILES[0] in tags
    starts, counts = (tags.get(tag, ()) for tag in (_TILES if tiled else _STRIPS))
    width, height = tags[_WIDTH][0], tags[_HEIGHT][0]
    wide, high = (tags.get(tag, (0,))[0] for tag in _TILE_SIZE) if tiled else (width, tags.get(_ROWS, (height,))[0])
    if not wide or not high:
        raise _SenselessPageError("has strips or tiles without size")
    high = high if tiled else min(high, height)
    planes = tags[_SAMPLES][0] if tags[_PLANES][0] == 2 else 1
    pieces = math.ceil(width / wide) * math.ceil(height / high) * planes
    if len(starts) != pieces or len(counts) != pieces:
        raise _SenselessPageError(f"has {len(starts)} strips or tiles, but needs {pieces}")
    if any(start + count > length for start, count in zip(starts, counts, strict=True)):
        raise EOFError
    size = math.ceil(tags[_SAMPLES][0] / planes) * tags[_BITS][0] // 8
    whole = width * height * planes * size
    if tags[_PACKING][0] == 1 and sum(counts) < whole:
        raise _SenselessPageError(f"has {sum(counts)} bytes of pixels, but needs {whole}")


def _take(stream: BinaryIO, form: str) -> tuple[int, ...]:
    return struct.unpack(form, _read_exactly(stream, struct.calcsize(form)))


def _read_exactly(stream: BinaryIO, count: int) -> bytes:
    content = stream.read(count)
    if len(content) < count:
        raise EOFError
    return content


def spacing_beside(path: Path) -> tuple[float, ...] | None:
    """TIFF stacks have no spacing; nnU-Net's Tiff3DIO has it in a file NAME.json: {"spacing": [z, y, x]}, in mm.

    Raises:
        DatasetError: there is such a file, without a spacing.
    """
    for name in (path.stem, re.sub(r"_\d{4}$", "", path.stem)):
        beside = path.with_name(f"{name}.json")
        if beside.is_file():
            try:
                z, y, x = (float(size) for size in read_json(beside)["spacing"])
                if not all(0 < size < math.inf for size in (z, y, x)):
                    raise ValueError(f"{z}, {y}, {x}")
            except (RecordError, TypeError, KeyError, ValueError) as error:
                remedy = 'Write {"spacing": [z, y, x]}, in mm.'
                raise fault(beside, f"holds no spacing ({error}).", remedy) from None
            return z, y, x
    return None


def write_spacing_beside(path: Path, spacing_mm: Sequence[float]) -> None:
    """Write the spacing (z, y, x) of a TIFF stack where `spacing_beside` looks for it.

    Raises:
        UsageError: a file of this name is there and holds something else.
    """
    beside = path.with_name(f"{path.stem}.json")
    if beside.exists():
        try:
            found = read_json(beside)
        except RecordError:
            found = None
        if not (isinstance(found, dict) and set(found) == {"spacing"}):
            raise UsageError(f"{beside}: is no spacing of {path.name}, whose place this is. Move one of them.")
    write_atomically(beside, json.dumps({"spacing": list(spacing_mm)}).encode() + b"\n")


def _stack_geometry(path: Path, geometry: Geometry) -> Geometry:
    """The geometry of a TIFF file: that of a stack has the spacing that stands beside it."""
    found = spacing_beside(path) if geometry.dimension == 3 else None
    return replace(geometry, spacing_mm=found or geometry.spacing_mm, oriented=False)


def _check_picture(check: Callable[[Path, BinaryIO], None], path: Path) -> Source:
    """Run the check of a format on a file; pixels may be anywhere in it."""
    with path.open("rb") as stream:
        check(path, stream)
    return Source(path.stat().st_size, packed=True)


PNG = ItkReader((".png",), "PNGImageIO", partial(_check_picture, _check_png), amend=without_direction)
TIFF = ItkReader((".tif", ".tiff"), "TIFFImageIO", partial(_check_picture, _check_tiff), amend=_stack_geometry)
BMP = ItkReader((".bmp",), "BMPImageIO", partial(_check_picture, _check_bmp), amend=without_direction)

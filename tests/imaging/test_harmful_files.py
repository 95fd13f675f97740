"""Files that crash, hang or overflow SimpleITK 2.5.7, as the fuzzing found them: here they are errors."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from voxfit.core.errors import DatasetError
from voxfit.imaging.volume import read_geometry, read_image, read_label


@pytest.fixture(params=[read_image, read_label, read_geometry])
def read(request: pytest.FixtureRequest) -> Callable[[Path], object]:
    """Every door for files."""
    door: Callable[[Path], object] = request.param
    return door


def written(path: Path, array: np.ndarray) -> bytearray:
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    return bytearray(path.read_bytes())


def stack(folder: Path) -> tuple[Path, bytearray]:
    path = folder / "x.tif"
    return path, written(path, np.zeros((3, 8, 9), np.int16))


def tag_place(content: bytes, wanted: int, page: int) -> int:
    """Where the entry of a tag begins, on a page of a little TIFF file."""
    (offset,) = struct.unpack_from("<I", content, 4)
    for _ in range(page):
        (entries,) = struct.unpack_from("<H", content, offset)
        (offset,) = struct.unpack_from("<I", content, offset + 2 + 12 * entries)
    (entries,) = struct.unpack_from("<H", content, offset)
    places = [offset + 2 + 12 * number for number in range(entries)]
    return next(place for place in places if struct.unpack_from("<H", content, place)[0] == wanted)


@pytest.mark.parametrize(
    ("tag", "value", "words"),
    [
        (254, 1, "is a thumbnail or a mask"),
        (256, 4000, "strips|is of another size|bytes of pixels"),
        (257, 4000, "strips|is of another size|bytes of pixels"),
        (277, 255, "has colours that are not read"),
        (258, 12, "has bits that are not read"),
    ],
)
def test_a_page_unlike_the_first(
    read: Callable[[Path], object], tmp_path: Path, tag: int, value: int, words: str
) -> None:
    path, content = stack(tmp_path)
    struct.pack_into("<I", content, tag_place(content, tag, 1) + 8, value)
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=words):
        read(path)


def test_a_page_that_leads_back(read: Callable[[Path], object], tmp_path: Path) -> None:
    path, content = stack(tmp_path)
    (first,) = struct.unpack_from("<I", content, 4)
    (entries,) = struct.unpack_from("<H", content, first)
    struct.pack_into("<I", content, first + 2 + 12 * entries, first)
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="leads back to an earlier one"):
        read(path)


def test_a_page_beyond_any_file(read: Callable[[Path], object], tmp_path: Path) -> None:
    """A BigTIFF whose first page lies where no number of the system reaches."""
    path = tmp_path / "x.tif"
    path.write_bytes(struct.pack(">2sHHHQ", b"MM", 43, 8, 0, 2**63))
    with pytest.raises(DatasetError, match="ends before the end of page 1"):
        read(path)


def test_a_bmp_that_is_compressed(read: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "x.bmp"
    content = written(path, np.zeros((8, 9), np.uint8))
    struct.pack_into("<HI", content, 28, 8, 1)
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="only uncompressed ones"):
        read(path)


def test_a_png_chunk_of_two_gigabytes(read: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    content = written(path, np.zeros((8, 9), np.uint8))
    content[33] = 127
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="ends before its last chunk"):
        read(path)


@pytest.mark.parametrize(
    "line",
    [
        b"NDims = 1e30 4824662383 nan",
        b"NDims = 3\nDimSize = 9 0 3",
        b"NDims = 3\nNDims = 3",
        b"NDims = 3\nElementSpacing = 1 1",
        b"NDims = 3\nTransformMatrix = 1 0 0",
        b"NDims = 3\nOffset = nan inf 0",
        b"NDims = 3\n" + b"Comment = " + b"x" * 600,
    ],
)
def test_a_metaimage_header_that_is_none(read: Callable[[Path], object], tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "x.mha"
    content = written(path, np.zeros((3, 8, 9), np.int16))
    path.write_bytes(bytes(content).replace(b"NDims = 3", line, 1))
    with pytest.raises(DatasetError, match=r"its header makes no sense at|has no voxels"):
        read(path)

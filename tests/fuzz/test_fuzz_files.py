"""Mutated image files: an image, or a DatasetError; never another exception, and never much memory."""

from __future__ import annotations

import contextlib
import gzip
import re
import resource
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.budget import EXAMPLES, SETTINGS
from voxfit.assessment.evaluation import evaluate_files
from voxfit.core.errors import DatasetError
from voxfit.core.parallel import LocalExecutor
from voxfit.imaging.correction import misplaced_label
from voxfit.imaging.files import Case
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.labels import Label, Labels
from voxfit.imaging.places import placing_problem
from voxfit.imaging.placing import read_placing
from voxfit.imaging.volume import file_ending, read_geometry, read_image, read_label
from voxfit.imaging.writing import write_label

SHAPE = (3, 8, 9)
LABELS = Labels(classes=(Label(name="one", value=1),))
MOST_KIB = 300 * 1024
"""No file of a few hundred bytes may take more memory."""

FIELDS: dict[str, tuple[int, str]] = {
    **{f"dim[{index}]": (40 + 2 * index, "h") for index in range(8)},
    "datatype": (70, "h"),
    "bitpix": (72, "h"),
    **{f"pixdim[{index}]": (76 + 4 * index, "f") for index in range(8)},
    "vox_offset": (108, "f"),
    "scl_slope": (112, "f"),
    "scl_inter": (116, "f"),
    "qform_code": (252, "h"),
    "sform_code": (254, "h"),
    **{f"quatern[{index}]": (256 + 4 * index, "f") for index in range(6)},
    **{f"srow[{index}]": (280 + 4 * index, "f") for index in range(12)},
    "magic": (344, "i"),
    "sizeof_hdr": (0, "i"),
    "extension": (348, "i"),
}
"""Of NIfTI-1: where each stands, and its type."""

SHORTS = st.one_of(
    st.integers(-2, 9), st.integers(-(2**15), 2**15 - 1), st.sampled_from([16, 64, 128, 512, 768, 1536, 1792])
)
FLOATS = st.one_of(
    st.floats(width=32), st.sampled_from([0.0, -1.0, 352.0, 351.0, 1e30, 1e-30, float("nan"), float("inf"), 4096.0])
)


def voxels(kind: type = np.int16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, SHAPE).astype(kind)


def check_error(error: DatasetError, path: Path) -> None:
    assert all(path.name in problem.where and problem.what and problem.remedy for problem in error.problems)
    assert not re.search("0x[0-9a-f]{6}", str(error))


def look(path: Path) -> None:
    """Read a file as an image and as a label: what comes is sound, or an error that names the file."""
    assert kib_taken_by(lambda: _look(path)) < MOST_KIB


def kib_taken_by(work: Callable[[], object]) -> int:
    """By how much the memory of this process rose meanwhile, at most; Linux alone forgets its older, higher peak."""
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")
    before = _peak_kib()
    work()
    return _peak_kib() - before


def _peak_kib() -> int:
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        return int(found[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="resets the peak of memory as Linux does")
def test_memory_is_noticed_whatever_was_used_before() -> None:
    def take() -> int:
        return len(bytearray(2 * MOST_KIB * 1024))

    assert kib_taken_by(take) > MOST_KIB
    assert kib_taken_by(take) > MOST_KIB
    assert kib_taken_by(lambda: None) < MOST_KIB


def _look(path: Path) -> None:
    for read in (read_image, read_label):
        try:
            volume = read(path)
        except DatasetError as error:
            check_error(error, path)
            continue
        assert np.isfinite(volume.array).all()
        assert volume.array.shape[-3:] == volume.geometry.shape
        assert_sound(volume.geometry)
        assert read_geometry(path) == volume.geometry  # from the header alone
    try:
        assert_sound(read_geometry(path))
    except DatasetError as error:
        check_error(error, path)
    _use(path)


def assert_sound(geometry: Geometry) -> None:
    assert min(geometry.spacing_mm) > 0
    assert np.isfinite(geometry.affine()).all()
    assert abs(np.linalg.det(np.reshape(geometry.direction, (3, 3)))) > 0.9


def _use(path: Path) -> None:
    """What reads label maps and images on the way to something else: evaluation, `check --fix`, the header kept."""
    with contextlib.suppress(DatasetError):
        evaluate_files({"x": (path, path)}, LABELS, executor=LocalExecutor(1), surface=False)
    try:
        assert misplaced_label(Case(name="x", images=(str(path),), label=str(path))) == 0
        assert placing_problem(path) is None or read_placing(path) is not None
    except DatasetError as error:
        check_error(error, path)
    ending = file_ending(path)
    if ending in (".nii", ".nii.gz"):
        with contextlib.suppress(DatasetError):
            grid = read_geometry(path)
            label = path.with_name(f"label{ending}")
            write_label(label, np.ones(grid.shape, np.uint8), grid, like=path)
            assert read_label(label).geometry == grid


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], bytes]:
    """The bytes of a small file in each format, and packed where it can be."""
    folder = tmp_path_factory.mktemp("sound")
    made: dict[tuple[str, bool], bytes] = {}

    def write(ending: str, pack: bool) -> bytes:
        if (ending, pack) not in made:
            array = voxels(np.uint8)[0] if ending in (".png", ".bmp") else voxels()
            path = folder / f"x{ending}"
            sitk.WriteImage(sitk.GetImageFromArray(array), str(path), useCompression=pack)
            made[ending, pack] = path.read_bytes()
        return made[ending, pack]

    return write


@pytest.fixture(scope="module")
def niftis(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Small NIfTI files as SimpleITK and nibabel write them, uncompressed."""
    folder = tmp_path_factory.mktemp("nifti")
    sitk.WriteImage(sitk.GetImageFromArray(voxels()), str(folder / "a.nii"))
    nib.save(nib.Nifti1Image(voxels(np.float32).transpose(), np.diag([2.0, 1, 1, 1])), folder / "b.nii")
    nib.save(nib.Nifti2Image(voxels(np.uint8).transpose(), np.eye(4)), folder / "c.nii")
    big = nib.Nifti1Header(endianness=">")
    nib.save(nib.Nifti1Image(np.stack([voxels(), voxels()]).transpose(), np.eye(4), big), folder / "d.nii")
    return [(folder / f"{name}.nii").read_bytes() for name in "abcd"]


def test_a_header_that_simpleitk_never_comes_back_from(tmp_path: Path, niftis: list[bytes]) -> None:
    """Found by the test below."""
    body = bytearray(niftis[1])
    struct.pack_into("<4f", body, 280, 0, 0, 0, float("inf"))
    (tmp_path / "x.nii").write_bytes(body)
    for read in (read_image, read_label, read_geometry):
        with pytest.raises(DatasetError, match="its sform has numbers that place it nowhere"):
            read(tmp_path / "x.nii")


@settings(**SETTINGS | {"max_examples": EXAMPLES * 5})
@given(st.data())
def test_fields_of_nifti_headers(tmp_path: Path, niftis: list[bytes], data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from(niftis))
    order = ">" if whole[0] == 0 else "<"
    body = bytearray(whole)
    for name in data.draw(st.lists(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=4)):
        place, kind = FIELDS[name]
        value = data.draw({"h": SHORTS, "f": FLOATS, "i": st.integers(-(2**31), 2**31 - 1)}[kind])
        struct.pack_into(order + kind, body, place, value)
    if data.draw(st.booleans()):
        path = tmp_path / "x.nii"
        path.write_bytes(body)
    else:
        path = tmp_path / "packed.nii.gz"
        path.write_bytes(gzip.compress(bytes(body), 1))
    look(path)


@settings(**SETTINGS | {"max_examples": EXAMPLES * 3})
@given(st.data())
def test_bytes_of_nifti_files(tmp_path: Path, niftis: list[bytes], data: st.DataObject) -> None:
    body = scratched(data, data.draw(st.sampled_from(niftis)), 400)
    path = tmp_path / "x.nii"
    path.write_bytes(body)
    look(path)
    packed = tmp_path / "packed.nii.gz"
    packed.write_bytes(scratched(data, gzip.compress(body, 1), 400))
    look(packed)


@settings(**SETTINGS | {"max_examples": EXAMPLES * 5})
@given(st.data(), st.sampled_from([".nrrd", ".mha", ".tif", ".png", ".bmp"]), st.booleans())
def test_bytes_of_other_formats(
    tmp_path: Path, written: Callable[[str, bool], bytes], data: st.DataObject, ending: str, pack: bool
) -> None:
    path = tmp_path / f"x{ending}"
    path.write_bytes(scratched(data, written(ending, pack and ending in (".nrrd", ".mha", ".tif")), 700))
    look(path)


@settings(**SETTINGS | {"max_examples": EXAMPLES * 3})
@given(st.data(), st.sampled_from([".nrrd", ".mha"]))
def test_lines_of_text_headers(
    tmp_path: Path, written: Callable[[str, bool], bytes], data: st.DataObject, ending: str
) -> None:
    """Values replaced by numbers and names, lines doubled or taken out."""
    whole = written(ending, False)
    end = whole.index(b"\n\n") if ending == ".nrrd" else whole.index(b"LOCAL")
    lines = whole[:end].split(b"\n")
    for _ in range(data.draw(st.integers(1, 3))):
        number = data.draw(st.integers(0, len(lines) - 1))
        mark = b": " if ending == ".nrrd" else b" = "
        key = lines[number].split(mark)[0]
        match data.draw(st.sampled_from(["values", "words", "double", "remove"])):
            case "values":
                values = data.draw(st.lists(st.one_of(st.integers(-3, 10**13), FLOATS), min_size=1, max_size=9))
                lines[number] = key + mark + " ".join(map(str, values)).encode()
            case "words":
                words = [
                    "True",
                    "gzip",
                    "bzip2",
                    "raw",
                    "txt",
                    "float",
                    "MET_DOUBLE",
                    "MET_FLOAT_ARRAY",
                    "/etc/passwd",
                    "LIST",
                ]
                lines[number] = key + mark + data.draw(st.sampled_from(words)).encode()
            case "double":
                lines.insert(number, lines[number])
            case "remove" if len(lines) > 1:
                del lines[number]
    path = tmp_path / f"x{ending}"
    path.write_bytes(b"\n".join(lines) + whole[end:])
    look(path)


def scratched(data: st.DataObject, whole: bytes, header: int) -> bytes:
    """Some bytes replaced, most of them in the header; perhaps cut, or with something put in."""
    body = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.one_of(st.integers(0, min(header, len(body)) - 1), st.integers(0, len(body) - 1)))
        body[place] = data.draw(st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 127, 128, 255])))
    match data.draw(st.sampled_from(["whole", "whole", "cut", "insert"])):
        case "cut":
            return bytes(body[: data.draw(st.integers(0, len(body)))])
        case "insert":
            place = data.draw(st.integers(0, len(body)))
            return bytes(body[:place] + data.draw(st.binary(min_size=1, max_size=20)) + body[place:])
    return bytes(body)

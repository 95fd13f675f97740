from __future__ import annotations

import contextlib
import gzip
import itertools
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from skimage import io

from voxfit.core.errors import DatasetError, UsageError, WorkspaceError
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.volume import file_ending, from_sitk, read_geometry, read_image, read_label
from voxfit.imaging.writing import to_sitk, write_image, write_label

VOLUME_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SHAPE = (4, 5, 6)

turns = [
    ("straight", np.eye(3)),
    ("flipped", np.diag([-1.0, 1.0, -1.0])),
    ("mirrored", np.diag([1.0, -1.0, 1.0])),
    ("permuted", np.eye(3)[[2, 0, 1]]),
    ("oblique", Rotation.from_euler("xyz", [10, -25, 40], degrees=True).as_matrix()),
    ("oblique and mirrored", Rotation.from_euler("zyx", [77, 5, -3], degrees=True).as_matrix() * [1, 1, -1]),
]
directions = pytest.mark.parametrize("direction", [matrix for _, matrix in turns], ids=[name for name, _ in turns])


def grid(direction: NDArray[np.float64], shape: tuple[int, ...] = SHAPE) -> Geometry:
    return Geometry(shape, (2.5, 0.75, 0.5), (-31.5, 12.25, 400.0), tuple(direction.ravel().tolist()))


def counted(shape: tuple[int, ...], dtype: str = "int16") -> NDArray[np.generic]:
    """Every voxel another value, so that no two axes can be confused."""
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def assert_same_grid(one: Geometry, other: Geometry) -> None:
    assert (one.shape, one.dimension) == (other.shape, other.dimension)
    np.testing.assert_allclose(one.spacing_mm, other.spacing_mm, rtol=1e-6)
    np.testing.assert_allclose(one.affine(), other.affine(), atol=2e-5)


@directions
@pytest.mark.parametrize("ending", VOLUME_ENDINGS)
def test_labels_and_images_come_back_with_their_grid(
    tmp_path: Path, ending: str, direction: NDArray[np.float64]
) -> None:
    geometry = grid(direction)
    path = tmp_path / f"deeper/case.1{ending}"
    write_label(path, counted(SHAPE), geometry)
    label = read_label(path)
    np.testing.assert_array_equal(label.array, counted(SHAPE))
    assert label.array.dtype == np.int16
    assert_same_grid(label.geometry, geometry)
    image = read_image(path)
    np.testing.assert_array_equal(image.array, counted(SHAPE)[None])
    assert image.array.dtype == np.float32
    assert image.geometry == label.geometry


@pytest.mark.parametrize("ending", VOLUME_ENDINGS)
def test_writing_leaves_only_the_file_and_it_may_be_written_again(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"case{ending}"
    write_label(path, counted(SHAPE), grid(np.eye(3)))
    write_label(path, counted(SHAPE) + np.int16(1), grid(np.eye(3)))
    assert read_label(path).array.min() == 1
    assert {file.name for file in tmp_path.iterdir()} - {"case.raw", "case.zraw"} == {path.name}


@directions
def test_nibabel_finds_the_same_voxels_at_the_same_millimetres(tmp_path: Path, direction: NDArray[np.float64]) -> None:
    geometry = grid(direction)
    write_image(tmp_path / "image.nii.gz", counted(SHAPE, "float32"), geometry)
    seen = nib.load(tmp_path / "image.nii.gz")
    np.testing.assert_array_equal(np.asarray(seen.dataobj), counted(SHAPE).transpose())
    np.testing.assert_allclose(seen.affine, LPS_TO_RAS @ geometry.affine(), atol=2e-5)


@directions
@pytest.mark.parametrize("form", ["sform", "qform"])
def test_what_nibabel_wrote_is_read_at_the_same_millimetres(
    tmp_path: Path, direction: NDArray[np.float64], form: str
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = direction * [0.5, 0.75, 2.5]
    affine[:3, 3] = [7.5, -120.25, 33.0]
    image = nib.Nifti1Image(counted(SHAPE).transpose(), affine)
    if form == "qform":
        image.set_qform(affine, 1)
        image.set_sform(None, 0)
    nib.save(image, tmp_path / "image.nii")
    found = read_image(tmp_path / "image.nii")
    np.testing.assert_array_equal(found.array[0], counted(SHAPE))
    np.testing.assert_allclose(LPS_TO_RAS @ found.geometry.affine(), affine, atol=2e-5)
    np.testing.assert_allclose(found.geometry.spacing_mm, [2.5, 0.75, 0.5], rtol=1e-6)


def test_the_header_of_a_meta_image_has_the_axes_as_xyz(tmp_path: Path) -> None:
    write_label(tmp_path / "l.mha", counted(SHAPE), grid(np.eye(3)))
    lines = (tmp_path / "l.mha").read_bytes().split(b"ElementDataFile")[0].decode().splitlines()
    header = dict(line.split(" = ") for line in lines if line)
    assert header["DimSize"] == "6 5 4"
    assert header["ElementSpacing"] == "0.5 0.75 2.5"
    assert header["Offset"] == "-31.5 12.25 400"


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_every_type_and_byte_order_of_nifti(tmp_path: Path, dtype: str, order: str, ending: str) -> None:
    array = (np.random.default_rng(0).integers(-100, 100, SHAPE) if "u" not in dtype else counted(SHAPE)).astype(dtype)
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(array.dtype.newbyteorder(order))
    path = tmp_path / f"x{ending}"
    nib.save(nib.Nifti1Image(array.transpose(), np.eye(4), header), path)
    assert nib.load(path).header.endianness == order
    np.testing.assert_array_equal(read_image(path).array[0], array.astype(np.float32))
    np.testing.assert_array_equal(read_label(path).array, array)


def test_stored_integers_with_a_scale_are_read_as_the_intensities(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.random.default_rng(0).normal(0, 100, SHAPE).transpose(), np.eye(4))
    image.set_data_dtype(np.int16)
    nib.save(image, tmp_path / "x.nii.gz")
    stored = nib.load(tmp_path / "x.nii.gz")
    assert stored.dataobj.slope != 1
    np.testing.assert_allclose(read_image(tmp_path / "x.nii.gz").array[0], stored.get_fdata().transpose(), rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_fourth_axis_is_channels(tmp_path: Path, channels: int) -> None:
    array = counted((channels, *SHAPE), "float32")
    affine = np.diag([0.5, 0.75, 2.5, 1])
    nib.save(nib.Nifti1Image(array.transpose(), affine), tmp_path / "x.nii.gz")
    image = read_image(tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(image.array, array)
    np.testing.assert_allclose(LPS_TO_RAS @ image.geometry.affine(), affine, atol=1e-6)


@directions
@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_several_channels_come_back(tmp_path: Path, ending: str, direction: NDArray[np.float64]) -> None:
    array = counted((3, *SHAPE), "float32")
    write_image(tmp_path / f"x{ending}", array, grid(direction))
    image = read_image(tmp_path / f"x{ending}")
    np.testing.assert_array_equal(image.array, array)
    assert_same_grid(image.geometry, grid(direction))


def test_components_of_a_voxel_are_channels(tmp_path: Path) -> None:
    array = counted((*SHAPE, 2), "float32")
    image = sitk.GetImageFromArray(array, isVector=True)
    sitk.WriteImage(image, str(tmp_path / "x.mha"))
    np.testing.assert_array_equal(read_image(tmp_path / "x.mha").array, np.moveaxis(array, -1, 0))
    np.testing.assert_array_equal(from_sitk(image).array, np.moveaxis(array, -1, 0))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("ending", [".png", ".tif", ".tiff"])
def test_pictures_are_volumes_of_one_slice(tmp_path: Path, ending: str, dtype: str) -> None:
    array = counted((9, 11), dtype)
    path = tmp_path / f"x{ending}"
    io.imsave(path, array, check_contrast=False)
    image, label = read_image(path), read_label(path)
    np.testing.assert_array_equal(image.array, array[None, None])
    np.testing.assert_array_equal(label.array, array[None])
    assert (image.geometry.shape, image.geometry.dimension) == ((1, 9, 11), 2)
    write_label(tmp_path / f"y{ending}", label.array, label.geometry)
    np.testing.assert_array_equal(io.imread(tmp_path / f"y{ending}"), array)


def test_colours_are_channels_and_no_label(tmp_path: Path) -> None:
    colours = counted((7, 8, 3), "uint8")
    io.imsave(tmp_path / "x.png", colours, check_contrast=False)
    np.testing.assert_array_equal(read_image(tmp_path / "x.png").array, np.moveaxis(colours, -1, 0)[:, None])
    with pytest.raises(DatasetError, match="several channels"):
        read_label(tmp_path / "x.png")


def test_pages_of_a_tiff_are_slices(tmp_path: Path) -> None:
    pages = counted((3, 7, 8), "uint16")
    tifffile.imwrite(tmp_path / "x.tif", pages, photometric="minisblack")
    image = read_image(tmp_path / "x.tif")
    np.testing.assert_array_equal(image.array[0], pages)
    assert image.geometry.dimension == 3


@directions
def test_an_image_of_simpleitk_goes_there_and_back(direction: NDArray[np.float64]) -> None:
    image = to_sitk(counted(SHAPE), grid(direction))
    for index in itertools.product((0, 1), repeat=3):
        assert image[index] == counted(SHAPE)[index[::-1]]
        np.testing.assert_allclose(
            image.TransformIndexToPhysicalPoint(index), (grid(direction).affine() @ [*index, 1])[:3]
        )
    again = from_sitk(image)
    np.testing.assert_array_equal(again.array[0], counted(SHAPE))
    assert_same_grid(again.geometry, grid(direction))


def test_a_picture_keeps_its_plane(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(counted((4, 5)))
    image.SetSpacing((0.5, 2.0))
    image.SetOrigin((3.0, -4.0))
    image.SetDirection((0.0, 1.0, -1.0, 0.0))
    volume = from_sitk(image)
    assert volume.geometry.spacing_mm == (1.0, 2.0, 0.5)
    write_label(tmp_path / "x.mha", volume.array[0].astype(np.int16), volume.geometry)
    again = sitk.ReadImage(str(tmp_path / "x.mha"))
    assert (again.GetSpacing(), again.GetOrigin(), again.GetDirection(), again.GetSize()) == (
        image.GetSpacing(),
        image.GetOrigin(),
        image.GetDirection(),
        image.GetSize(),
    )


# Broken files


def nifti_bytes(dtype: str = "int16") -> bytes:
    array = np.random.default_rng(0).integers(0, 100, (5, 6, 7)).astype(dtype)
    return bytes(nib.Nifti1Image(array, np.eye(4)).to_bytes())


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("compressed", [True, False])
def test_no_beginning_of_a_nifti_file_is_an_image(tmp_path: Path, ending: str, compressed: bool) -> None:
    # SimpleITK itself returns such a file as a volume that ends in zeros.
    content = gzip.compress(nifti_bytes()) if compressed else nifti_bytes()
    path = tmp_path / f"case_7{ending}"
    for length in [*range(0, len(content), 13), *range(len(content) - 10, len(content))]:
        path.write_bytes(content[:length])
        for read in (read_image, read_label):
            with pytest.raises(DatasetError) as caught:
                read(path)
            (problem,) = caught.value.problems
            assert problem.where == str(path)
            assert problem.fatal
            assert problem.remedy


@given(st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damage_to_compressed_voxels_goes_unseen(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(gzip.compress(nifti_bytes(), mtime=0))
    # The first ten bytes hold the time and the operating system, and say nothing about the voxels.
    content[data.draw(st.integers(10, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "case.nii.gz"
    path.write_bytes(content)
    if _unpacked(bytes(content)) == nifti_bytes():  # a length in the table of codes that no voxel has
        path.with_name("whole.nii.gz").write_bytes(gzip.compress(nifti_bytes()))
        np.testing.assert_array_equal(read_image(path).array, read_image(path.with_name("whole.nii.gz")).array)
        return
    with pytest.raises(DatasetError):
        read_image(path)


def _unpacked(content: bytes) -> bytes:
    """What is in a gzip file; nothing where that is damaged."""
    with contextlib.suppress(OSError, EOFError, zlib.error):
        return gzip.decompress(content)
    return b""


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8"])
@pytest.mark.parametrize("shape", [(5, 5, 5), (4, 4, 4), (1, 1, 1), (70, 65, 61)])
@pytest.mark.parametrize("place", [0, -1])
def test_voxels_that_are_no_numbers_are_counted(
    tmp_path: Path, value: float, dtype: str, shape: tuple[int, ...], place: int
) -> None:
    # SimpleITK may read NaN as 0. The last shape has more bytes than are looked at in one piece.
    array = np.ones(shape, dtype)
    array.flat[place] = value
    header = nib.Nifti1Header(endianness=dtype[0])
    header.set_data_dtype(array.dtype)
    path = tmp_path / "case.nii"
    nib.save(nib.Nifti1Image(array, np.eye(4), header), path)
    for read in (read_image, read_label):
        with pytest.raises(DatasetError, match=r"case\.nii: 1 voxels are NaN or infinite"):
            read(path)


def test_voxels_that_are_no_numbers_in_other_formats(tmp_path: Path) -> None:
    array = np.zeros(SHAPE, np.float32)
    array[1, 2, 3] = np.nan
    array[0, 0, 0] = np.inf
    array[0, 0, 1] = -np.inf
    for ending in (".mha", ".nrrd"):
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / f"x{ending}"))
        with pytest.raises(DatasetError, match="3 voxels are NaN or infinite"):
            read_image(tmp_path / f"x{ending}")
        with pytest.raises(DatasetError):
            read_label(tmp_path / f"x{ending}")


def test_intensities_beyond_single_precision_are_infinite(tmp_path: Path) -> None:
    array = np.zeros(SHAPE)
    array[0, 0, 0] = 1e300
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "x.nii")
    with pytest.raises(DatasetError, match="1 voxels are NaN or infinite"):
        read_image(tmp_path / "x.nii")


def test_large_finite_intensities_are_read(tmp_path: Path) -> None:
    # In single precision their sum would overflow; they do not.
    array = np.full(SHAPE, np.finfo(np.float32).max, np.float32)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "x.nii")
    assert np.isfinite(read_image(tmp_path / "x.nii").array).all()


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".tif"])
@pytest.mark.parametrize(
    "content", [b"", b"patient,age\n1,60\n" * 50, gzip.compress(b"text"), bytes(1000)], ids=["empty", "text", "gz", "0"]
)
def test_what_is_no_image_is_named(tmp_path: Path, ending: str, content: bytes) -> None:
    path = tmp_path / f"case{ending}"
    path.write_bytes(content)
    for read in (read_image, read_label):
        with pytest.raises(DatasetError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".png"])
def test_half_a_file_of_another_format_is_no_image(tmp_path: Path, ending: str) -> None:
    array = np.random.default_rng(0).integers(0, 255, (64, 64) if ending == ".png" else (8, 30, 30)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / f"whole{ending}"))
    content = (tmp_path / f"whole{ending}").read_bytes()
    (tmp_path / f"half{ending}").write_bytes(content[: len(content) // 2])
    with pytest.raises(DatasetError, match="half"):
        read_image(tmp_path / f"half{ending}")


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.nii.gz", tmp_path):
        with pytest.raises(DatasetError, match="there is no such file") as caught:
            read_image(path)
        assert str(path) in str(caught.value)


def test_a_sheared_grid_is_refused(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[0, 1] = 0.3
    nib.save(nib.Nifti1Image(counted(SHAPE), affine), tmp_path / "x.nii")
    with pytest.raises(DatasetError, match="orthonormal"):
        read_image(tmp_path / "x.nii")


def test_labels_are_whole_numbers(tmp_path: Path) -> None:
    array = np.zeros((3, 3, 3), np.float32)
    array[1] = 2
    nib.save(nib.Nifti1Image(array.transpose(), np.eye(4)), tmp_path / "whole.nii.gz")
    label = read_label(tmp_path / "whole.nii.gz")
    assert label.array.dtype.kind == "i"
    np.testing.assert_array_equal(label.array, array)
    array[1, 1, 1] = 0.5
    nib.save(nib.Nifti1Image(array.transpose(), np.eye(4)), tmp_path / "parts.nii.gz")
    with pytest.raises(DatasetError, match=r"parts\.nii\.gz: the label has fractional values"):
        read_label(tmp_path / "parts.nii.gz")
    array[1, 1, 1] = 1e20  # beyond every integer
    nib.save(nib.Nifti1Image(array.transpose(), np.eye(4)), tmp_path / "huge.nii.gz")
    with pytest.raises(DatasetError, match=r"huge\.nii\.gz"):
        read_label(tmp_path / "huge.nii.gz")


def test_a_label_has_one_channel(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 2), np.uint8), np.eye(4)), tmp_path / "x.nii.gz")
    with pytest.raises(DatasetError, match="several channels"):
        read_label(tmp_path / "x.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4, 1), np.uint8), np.eye(4)), tmp_path / "y.nii.gz")
    assert read_label(tmp_path / "y.nii.gz").array.shape == (4, 4, 4)


@pytest.mark.parametrize("ending", ["", ".txt", ".gz"])
def test_an_unknown_ending_is_refused(tmp_path: Path, ending: str) -> None:
    with pytest.raises(UsageError, match=r"\.nii\.gz"):
        write_label(tmp_path / f"x{ending}", counted(SHAPE), grid(np.eye(3)))
    assert file_ending(tmp_path / f"x{ending}") == ""


def test_a_label_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(WorkspaceError, match="cannot be written"):
        write_label(tmp_path / "file" / "x.nii.gz", counted(SHAPE), grid(np.eye(3)))
    (tmp_path / "y.nii.gz").mkdir()
    with pytest.raises(WorkspaceError, match="cannot be written"):
        write_label(tmp_path / "y.nii.gz", counted(SHAPE), grid(np.eye(3)))
    # A volume is no picture: the format refuses, the old file stays.
    io.imsave(tmp_path / "z.png", counted((3, 3), "uint8"), check_contrast=False)
    with pytest.raises(WorkspaceError, match="cannot be written"):
        write_label(tmp_path / "z.png", counted((4, 3, 3), "float64"), grid(np.eye(3), (4, 3, 3)))
    np.testing.assert_array_equal(io.imread(tmp_path / "z.png"), counted((3, 3)))
    assert {path.name for path in tmp_path.iterdir()} == {"file", "y.nii.gz", "z.png"}


@pytest.mark.parametrize(
    ("name", "ending"),
    [("a.nii.gz", ".nii.gz"), ("A.NII.GZ", ".nii.gz"), ("a.b.nii", ".nii"), ("a.png", ".png"), ("a.gz", ""), ("a", "")],
)
def test_endings(name: str, ending: str) -> None:
    assert file_ending(Path("folder.nii") / name) == ending


# Real data


def test_real_volumes_are_those_that_nibabel_reads(shared_data: Path) -> None:
    some = {"Task04_Hippocampus/imagesTr": 5, "Dataset027_Cardiac/labelsTr": 2, "Task01_BrainTumour6/imagesTr": 1}
    paths = [path for folder, number in some.items() for path in sorted((shared_data / folder).iterdir())[:number]]
    paths += (shared_data / "ct_cases").glob("spleen_2_*")
    assert len(paths) == 10
    for path in paths:
        seen, found = nib.load(path), read_image(path)
        voxels = seen.get_fdata(dtype=np.float32).transpose()
        np.testing.assert_array_equal(found.array.reshape(voxels.shape), voxels, path.name)
        np.testing.assert_allclose(LPS_TO_RAS @ found.geometry.affine(), seen.affine, atol=1e-3, err_msg=path.name)


@pytest.mark.parametrize("name", ["stack.tif", "stack_0000.tiff"])
def test_the_spacing_of_a_tiff_stack_stands_beside_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 5, 4), np.uint8)), str(path))
    plain = read_image(path).geometry.spacing_mm
    (tmp_path / "stack.json").write_text('{"spacing": [4.0, 0.5, 0.25]}')
    assert read_image(path).geometry.spacing_mm == (4.0, 0.5, 0.25) != plain
    for wrong in ("{}", '{"spacing": [1, 2]}', '{"spacing": ["a", 1, 1]}', "[", '{"spacing": [0, 1, 1]}'):
        (tmp_path / "stack.json").write_text(wrong)
        with pytest.raises(DatasetError, match=r"spacing|JSON"):
            read_image(path)


class _Seen:
    """How many threads were in SimpleITK's readers at once."""

    def __init__(self) -> None:
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    @contextmanager
    def inside(self) -> Iterator[None]:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.005)  # long enough for another thread to come in
        try:
            yield
        finally:
            with self.lock:
                self.now -= 1


def test_threads_read_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ITK's NIfTI reader notes the file's name in one string for all threads: two at once free it twice, at random."""
    seen = _Seen()

    class Watched(sitk.ImageFileReader):  # type: ignore[misc]
        def Execute(self) -> sitk.Image:
            with seen.inside():
                return super().Execute()

        def ReadImageInformation(self) -> None:
            with seen.inside():
                super().ReadImageInformation()

    monkeypatch.setattr(sitk, "ImageFileReader", Watched)
    paths = [tmp_path / f"{index}{ending}" for index, ending in enumerate((".nii.gz", ".nii", ".mha", ".nrrd") * 3)]
    for path in paths:
        write_image(path, np.full((2, 3, 4), len(path.name), np.float32), grid(np.eye(3), (2, 3, 4)))
    with ThreadPoolExecutor(4) as pool:
        geometries = list(pool.map(read_geometry, paths))
        volumes = list(pool.map(read_image, paths))
    assert seen.most == 1
    assert [volume.geometry.shape for volume in volumes] == [grid.shape for grid in geometries] == [(2, 3, 4)] * 12
    assert all((volume.array == len(path.name)).all() for path, volume in zip(paths, volumes, strict=True))

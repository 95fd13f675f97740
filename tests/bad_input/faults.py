"""Every fault of docs/bad-input.md: how it is provoked, which command meets it, and how that must end."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from bad_input.place import Place

Ending = Literal["error", "warning", "silent", "says"]


@dataclass(frozen=True)
class Fault:
    """One row.

    Attributes:
        section: of the table.
        title: the fault, in words.
        provoke: damages the place and returns the command that meets it.
        ending: whether the user gets an error, a warning, nothing, or is told what was done.
        words: all must be in what is said.
        code: of the exit; by default 1 for an error and 0 otherwise.
        unprivileged: root could not meet it.
    """

    section: str
    title: str
    provoke: Callable[[Place], list[str]]
    ending: Ending
    words: tuple[str, ...]
    code: int
    unprivileged: bool = False


FAULTS: list[Fault] = []


def fault(
    section: str, title: str, *words: str, ending: Ending = "error", code: int | None = None, unprivileged: bool = False
) -> Callable[[Callable[[Place], list[str]]], Callable[[Place], list[str]]]:
    """Make a row of a function that provokes a fault."""

    def add(provoke: Callable[[Place], list[str]]) -> Callable[[Place], list[str]]:
        exit_code = (1 if ending == "error" else 0) if code is None else code
        FAULTS.append(Fault(section, title, provoke, ending, words, exit_code, unprivileged))
        return provoke

    return add


# -- files --

FILES = "Files that cannot be read"


@fault(FILES, "A NIfTI file of 0 bytes", "box_00_0000.nii.gz", "the file is empty")
def _(place: Place) -> list[str]:
    place.image().write_bytes(b"")
    return place.check()


@fault(FILES, "Text under the name of a NIfTI file", "box_00_0000.nii.gz", "is not a NIfTI file")
def _(place: Place) -> list[str]:
    place.image().write_text("404: not found\n" * 100)
    return place.check()


@fault(FILES, "A header with another magic than NIfTI's", "is not a NIfTI file")
def _(place: Place) -> list[str]:
    place.bytes_at(place.image(), 344, b"ABCD")
    return place.check()


@fault(FILES, "A truncated .nii.gz (SimpleITK reads zeros)", "the compressed data are damaged", "copy it again")
def _(place: Place) -> list[str]:
    content = place.image().read_bytes()
    place.image().write_bytes(content[: len(content) // 2])
    return place.check()


@fault(FILES, "A .nii.gz that lacks only its checksum", "the compressed data are damaged")
def _(place: Place) -> list[str]:
    place.image().write_bytes(place.image().read_bytes()[:-8])
    return place.check()


@fault(FILES, "Changed bytes within a .nii.gz", "the compressed data are damaged")
def _(place: Place) -> list[str]:
    content = bytearray(gzip.compress(gzip.decompress(place.image().read_bytes()), 0))
    content[3000] ^= 255
    place.image().write_bytes(content)
    return place.check()


@fault(FILES, "A truncated .nii (SimpleITK reads zeros)", "200 of the", "bytes that its header promises are missing")
def _(place: Place) -> list[str]:
    path = place.as_format(".nii")
    path.write_bytes(path.read_bytes()[:-200])
    return place.check()


@fault(FILES, "A .nii that is compressed all the same", "is compressed, but its name says otherwise")
def _(place: Place) -> list[str]:
    path = place.as_format(".nii")
    path.write_bytes(gzip.compress(path.read_bytes()))
    return place.check()


@fault(FILES, "a.nii beside a.nii.gz (SimpleITK mixes them)", "box_00_0000.nii lies beside it", "Remove one")
def _(place: Place) -> list[str]:
    place.image().with_name("box_00_0000.nii").write_bytes(gzip.decompress(place.image().read_bytes()))
    return place.check()


@fault(FILES, "A header that claims 10^12 voxels", "promises 2000000000000 bytes", "incomplete")
def _(place: Place) -> list[str]:
    path = place.as_format(".nii")
    place.bytes_at(path, 40, struct.pack("<4h", 3, 10000, 10000, 10000))
    place.bytes_at(path, 70, struct.pack("<2h", 4, 16))
    return place.check()


@fault(FILES, "The same, compressed", "promises 2000000000000 bytes", "(compressed)")
def _(place: Place) -> list[str]:
    place.bytes_at(place.image(), 40, struct.pack("<4h", 3, 10000, 10000, 10000))
    place.bytes_at(place.image(), 70, struct.pack("<2h", 4, 16))
    return place.check()


@fault(FILES, "A gzip bomb: 64 MiB of zeros behind the voxels", "goes on for more than 16 MiB behind its last voxel")
def _(place: Place) -> list[str]:
    place.image().write_bytes(gzip.compress(gzip.decompress(place.image().read_bytes()) + bytes(64 << 20), 1))
    return place.check()


@fault(FILES, "A file larger than memory, whose bytes are all there (a sparse one)", "but this machine has", "header")
def _(place: Place) -> list[str]:
    path = place.as_format(".mha")
    spread = 2 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    sides = f"{spread // 1_000_000} 1000 1000"
    path.write_text(
        f"ObjectType = Image\nNDims = 3\nDimSize = {sides}\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
    )
    with path.open("r+b") as stream:
        stream.truncate(spread + 1000)
    return place.check()


@fault(FILES, "A truncated .mha", "promises", "The file is incomplete")
def _(place: Place) -> list[str]:
    path = place.as_format(".mha")
    path.write_bytes(path.read_bytes()[:-500])
    return place.check()


@fault(FILES, "A truncated compressed .mha", "bytes of its voxels are missing")
def _(place: Place) -> list[str]:
    path = place.as_format(".mha", pack=True)
    path.write_bytes(path.read_bytes()[:-500])
    return place.check()


@fault(FILES, "A truncated .nrrd", "promises", "The file is incomplete")
def _(place: Place) -> list[str]:
    path = place.as_format(".nrrd")
    path.write_bytes(path.read_bytes()[:-500])
    return place.check()


@fault(FILES, "A truncated multi-page TIFF (SimpleITK reads fewer slices)", "ends before the end of page")
def _(place: Place) -> list[str]:
    path = place.as_format(".tif")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return place.check()


@fault(FILES, "A truncated PNG", "ends before its last chunk")
def _(place: Place) -> list[str]:
    path = place.as_format(".png")
    path.write_bytes(path.read_bytes()[:-60])
    return place.check()


@fault(FILES, "A truncated BMP (SimpleITK reads black)", "ends before its last line of pixels")
def _(place: Place) -> list[str]:
    path = place.as_format(".bmp")
    path.write_bytes(path.read_bytes()[:-60])
    return place.check()


@fault(FILES, "An .mha whose header names /etc/passwd for the voxels", "looks for the voxels in '/etc/passwd'")
def _(place: Place) -> list[str]:
    path = place.as_format(".mha")
    path.write_text(
        "ObjectType = Image\nNDims = 2\nDimSize = 8 8\nElementType = MET_UCHAR\nElementDataFile = /etc/passwd\n"
    )
    return place.check()


@fault(FILES, "An .mhd whose file of voxels is a link out of the folder", "a link to another folder")
def _(place: Place) -> list[str]:
    path = place.as_format(".mhd")
    raw = path.with_suffix(".raw")
    raw.rename(place.root / "elsewhere.raw")
    raw.symlink_to(place.root / "elsewhere.raw")
    return place.check()


@fault(FILES, "An .mhd without its file of voxels", "box_00_0000.raw", "does not exist")
def _(place: Place) -> list[str]:
    place.as_format(".mhd").with_suffix(".raw").unlink()
    return place.check()


@fault(FILES, "An .nrrd whose header names a file elsewhere", "names another file for the voxels")
def _(place: Place) -> list[str]:
    path = place.as_format(".nrrd")
    path.write_text("NRRD0004\ntype: uchar\ndimension: 2\nsizes: 8 8\nencoding: raw\ndata file: ../../x.raw\n\n")
    return place.check()


@fault(FILES, "A folder with the name of an image", "there is no such file")
def _(place: Place) -> list[str]:
    place.image().unlink()
    place.image().mkdir()
    return place.check()


@fault(FILES, "A file without read permission", "cannot be read (Permission denied)", unprivileged=True)
def _(place: Place) -> list[str]:
    place.image().chmod(0)
    return place.check()


# -- voxels and grids --

GRIDS = "Voxels and grids"


def _one_bad(value: float) -> Callable[[np.ndarray], None]:
    def change(array: np.ndarray) -> None:
        array[2, 3, 4] = value

    return change


@fault(GRIDS, "NaN in an image (SimpleITK reads 0)", "1 voxels are NaN or infinite")
def _(place: Place) -> list[str]:
    place.voxels(place.image(), _one_bad(np.nan))
    return place.check()


@fault(GRIDS, "Infinity in an image", "1 voxels are NaN or infinite")
def _(place: Place) -> list[str]:
    place.voxels(place.image(), _one_bad(np.inf))
    return place.check()


@fault(GRIDS, "Values beyond float32 in an image of doubles", "1 voxels are NaN or infinite")
def _(place: Place) -> list[str]:
    place.voxels(place.image(), _one_bad(1e300), np.float64)
    return place.check()


@fault(GRIDS, "An image of complex numbers", "its voxels are complex numbers")
def _(place: Place) -> list[str]:
    place.voxels(place.image(), lambda array: None, np.complex64)
    return place.check()


@fault(GRIDS, "An image whose voxels are all equal", "all voxels of the image are equal", ending="warning")
def _(place: Place) -> list[str]:
    place.voxels(place.image(), np.ones_like)
    return place.check()


@fault(GRIDS, "A single slice among volumes", "the image is 2D, but most are 3D")
def _(place: Place) -> list[str]:
    for path in (place.image(), place.label()):
        sitk.WriteImage(sitk.ReadImage(str(path))[:, :, 10], str(path))
    return place.check()


@fault(GRIDS, "An image of five axes", "box_00_0000.nii.gz", "5 dimensions")
def _(place: Place) -> list[str]:
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4, 2, 2), np.float32), np.eye(4)), place.image())
    return place.check()


@fault(GRIDS, "Image and label of different shapes", "the image has the shape", "Resample")
def _(place: Place) -> list[str]:
    place.voxels(place.label(), lambda array: array[:-1], np.uint8)
    return place.check()


@fault(GRIDS, "A label with another spacing", "voxels apart", "--fix", ending="warning")
def _(place: Place) -> list[str]:
    place.header(place.label(), lambda image: image.SetSpacing((1.2, 1.0, 1.8)))
    return place.check()


@fault(GRIDS, "A label with another origin", "voxels apart", "--fix", ending="warning")
def _(place: Place) -> list[str]:
    place.header(place.label(), lambda image: image.SetOrigin((9.0, -3.0, 0.0)))
    return place.check()


@fault(GRIDS, "A label with another direction", "voxels apart", "--fix", ending="warning")
def _(place: Place) -> list[str]:
    place.header(place.label(), lambda image: image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1)))
    return place.check()


@fault(GRIDS, "The same with --fix: a copy with the image's header", "has the image's header now", ending="warning")
def _(place: Place) -> list[str]:
    place.header(place.label(), lambda image: image.SetOrigin((9.0, -3.0, 0.0)))
    return place.check("--fix", str(place.root / "fixed"))


@fault(GRIDS, "--fix where nothing is wrong", "No copy was written", ending="says")
def _(place: Place) -> list[str]:
    return place.check("--fix", str(place.root / "fixed"))


@fault(GRIDS, "--fix into the dataset", "lies inside of the dataset", code=64)
def _(place: Place) -> list[str]:
    place.header(place.label(), lambda image: image.SetOrigin((9.0, -3.0, 0.0)))
    return place.check("--fix", str(place.data / "fixed"))


@fault(GRIDS, "A label that is off by less than 1/1000 of a voxel", ending="silent")
def _(place: Place) -> list[str]:
    place.header(place.label(), lambda image: image.SetOrigin((5.0005, -3.0, 0.0)))
    return place.check()


@fault(GRIDS, "A spacing of 0", "has the spacing 1.2, 1, 0", "must be positive")
def _(place: Place) -> list[str]:
    place.bytes_at(place.image(), 88, struct.pack("<f", 0))
    return place.check()


@fault(GRIDS, "A negative spacing", "has the spacing 1.2, 1, -1.5", "must be positive")
def _(place: Place) -> list[str]:
    place.bytes_at(place.image(), 88, struct.pack("<f", -1.5))
    return place.check()


@fault(GRIDS, "A negative spacing in an .mha (SimpleITK drops the sign)", "has the spacing -1.2", "must be positive")
def _(place: Place) -> list[str]:
    path = place.as_format(".mha")
    path.write_bytes(path.read_bytes().replace(b"ElementSpacing = 1.2", b"ElementSpacing = -1.2"))
    return place.check()


@fault(GRIDS, "A direction that is sheared", "not orthonormal")
def _(place: Place) -> list[str]:
    image = nib.load(place.image())
    affine = image.affine.copy()
    affine[0, 1] += 0.4
    place_image = nib.Nifti1Image(np.asarray(image.dataobj), None)
    place_image.set_sform(affine, 1)
    nib.save(place_image, place.image())
    return place.check()


def _two_channels(place: Place) -> Path:
    """A second channel for every case; returns that of the first."""
    for path in sorted((place.data / "imagesTr").iterdir()):
        shutil.copyfile(path, str(path).replace("_0000", "_0001"))
    place.describe(channel_names={"0": "T1", "1": "T2"})
    return place.data / "imagesTr" / "box_00_0001.nii.gz"


@fault(GRIDS, "Channels of different shapes", "the channel has the shape")
def _(place: Place) -> list[str]:
    place.voxels(_two_channels(place), lambda array: array[:-1])
    return place.check()


@fault(GRIDS, "Channels with different headers", "places this channel", ending="warning")
def _(place: Place) -> list[str]:
    place.header(_two_channels(place), lambda image: image.SetSpacing((1.2, 1.0, 3.0)))
    return place.check()


@fault(GRIDS, "Fewer channels than dataset.json names", "has 1 channels, but 2 are named")
def _(place: Place) -> list[str]:
    place.describe(channel_names={"0": "T1", "1": "T2"})
    for number in range(1, 5):
        os.link(place.image(number), str(place.image(number)).replace("_0000", "_0001"))
    return place.check()


@fault(GRIDS, "The same image in two cases", "is the same as that of box_00", "--group-by", ending="warning")
def _(place: Place) -> list[str]:
    shutil.copyfile(place.image(0), place.image(1))
    shutil.copyfile(place.label(0), place.label(1))
    return place.check()


@fault(GRIDS, "The same image twice in one group", ending="silent")
def _(place: Place) -> list[str]:
    shutil.copyfile(place.image(0), place.image(1))
    shutil.copyfile(place.label(0), place.label(1))
    groups = {f"box_{number:02}": f"patient {max(number, 1)}" for number in range(5)}
    place.describe(groups=groups, numTraining=6)
    extra = {
        name: place.data / name / ("box_05_0000.nii.gz" if "im" in name else "box_05.nii.gz")
        for name in ("imagesTr", "labelsTr")
    }
    shutil.copyfile(place.data / "imagesTs" / "box_05_0000.nii.gz", extra["imagesTr"])
    shutil.copyfile(place.data / "labelsTs" / "box_05.nii.gz", extra["labelsTr"])
    return place.check()


# -- labels --

LABELS = "Labels"


@fault(LABELS, "Fractional values", "the label has fractional values", "nearest neighbour")
def _(place: Place) -> list[str]:
    place.voxels(place.label(), _one_bad(0.5))
    return place.check()


@fault(LABELS, "Negative values", "the label has the value -1, but")
def _(place: Place) -> list[str]:
    place.voxels(place.label(), _one_bad(-1), np.int16)
    return place.check()


@fault(
    LABELS, "Values that dataset.json does not declare", "the label has the value 9, but dataset.json defines 0, 2, 5"
)
def _(place: Place) -> list[str]:
    place.voxels(place.label(), _one_bad(9), np.uint8)
    return place.check()


@fault(LABELS, "NaN in a label", "1 voxels are NaN or infinite")
def _(place: Place) -> list[str]:
    place.voxels(place.label(), _one_bad(np.nan))
    return place.check()


@fault(LABELS, "A label of several channels", "the label has several channels")
def _(place: Place) -> list[str]:
    place.voxels(place.label(), lambda array: np.stack([array, array]), np.uint8)
    return place.check()


@fault(LABELS, "One label without foreground", "the label is empty", ending="warning")
def _(place: Place) -> list[str]:
    place.voxels(place.label(), np.zeros_like, np.uint8)
    return place.check()


@fault(LABELS, "All labels without foreground", "all labels are empty")
def _(place: Place) -> list[str]:
    for number in range(5):
        place.voxels(place.label(number), np.zeros_like, np.uint8)
    return place.check()


@fault(LABELS, "A class that no label has", "no label has a voxel of rare", ending="warning")
def _(place: Place) -> list[str]:
    place.describe(labels={"background": 0, "left": 2, "right": 5, "rare": 7})
    return place.check()


# -- dataset.json --

DESCRIPTION = "dataset.json and the folder"


@fault(DESCRIPTION, "No dataset.json", "dataset.json: there is no such file")
def _(place: Place) -> list[str]:
    (place.data / "dataset.json").unlink()
    return place.check()


@fault(DESCRIPTION, "A dataset.json that is no JSON", "is not readable JSON")
def _(place: Place) -> list[str]:
    (place.data / "dataset.json").write_text("{'labels': }")
    return place.check()


@fault(DESCRIPTION, "A dataset.json that holds a list", "holds no JSON object")
def _(place: Place) -> list[str]:
    (place.data / "dataset.json").write_text("[1, 2]")
    return place.check()


@fault(DESCRIPTION, "A dataset.json of 1 GB", "has 1024 MiB, more than 64 MiB")
def _(place: Place) -> list[str]:
    os.truncate(place.data / "dataset.json", 1 << 30)
    return place.check()


@fault(DESCRIPTION, "A dataset.json with 100,000 open brackets", "is not readable JSON")
def _(place: Place) -> list[str]:
    (place.data / "dataset.json").write_text('{"labels": ' + "[" * 100_000)
    return place.check()


@fault(DESCRIPTION, "Channel names that are no object", '"channel_names" is 3')
def _(place: Place) -> list[str]:
    place.describe(channel_names=3)
    return place.check()


@fault(DESCRIPTION, "Channel numbers that are no numbers", 'the keys of "channel_names" are')
def _(place: Place) -> list[str]:
    place.describe(channel_names={"first": "CT"})
    return place.check()


@fault(DESCRIPTION, "A modality that nobody knows (it is normalised like MR)", ending="silent")
def _(place: Place) -> list[str]:
    place.describe(channel_names={"0": "Wombat"})
    return place.check()


@fault(DESCRIPTION, "Labels that are no object", '"labels" is [0, 1]')
def _(place: Place) -> list[str]:
    place.describe(labels=[0, 1])
    return place.check()


@fault(DESCRIPTION, "A label value that is no whole number", 'the label "left" has the value 1.5')
def _(place: Place) -> list[str]:
    place.describe(labels={"background": 0, "left": 1.5, "right": 5})
    return place.check()


@fault(DESCRIPTION, "Two labels with one value", "several labels have the value 2")
def _(place: Place) -> list[str]:
    place.describe(labels={"background": 0, "left": 2, "right": 2})
    return place.check()


@fault(DESCRIPTION, "No label but background", "there is no label besides background")
def _(place: Place) -> list[str]:
    place.describe(labels={"background": 0})
    return place.check()


@fault(DESCRIPTION, "A file ending that cannot be read", '"file_ending" is', "Files of these endings")
def _(place: Place) -> list[str]:
    place.describe(file_ending=".dcm")
    return place.check()


@fault(DESCRIPTION, "An image without label", "box_01: has no label file in labelsTr")
def _(place: Place) -> list[str]:
    place.label(1).unlink()
    return place.check()


@fault(DESCRIPTION, "A label without image", "box_01: has a label but no image")
def _(place: Place) -> list[str]:
    place.image(1).unlink()
    return place.check()


@fault(DESCRIPTION, "A listed case whose file is missing", "the image ./imagesTr/box_01.nii.gz does not exist")
def _(place: Place) -> list[str]:
    place.in_msd_form()
    (place.data / "imagesTr" / "box_01.nii.gz").unlink()
    return place.check()


@fault(DESCRIPTION, "A list of cases with wrong entries", 'entry 0 of "training" is 7')
def _(place: Place) -> list[str]:
    place.in_msd_form()
    place.edit(place.data / "dataset.json", lambda body: body["training"].insert(0, 7))
    return place.check()


@fault(DESCRIPTION, "A case that is listed twice", "the case is there 2 times")
def _(place: Place) -> list[str]:
    place.in_msd_form()
    place.edit(place.data / "dataset.json", lambda body: body["training"].append(body["training"][0]))
    return place.check()


@fault(DESCRIPTION, "A path that leaves the folder", "leads out of the dataset")
def _(place: Place) -> list[str]:
    place.in_msd_form()
    entry = {"image": "../model/model.json", "label": "/etc/passwd"}
    place.edit(place.data / "dataset.json", lambda body: body["training"].append(entry))
    return place.check()


def _link_out(place: Place, path: Path) -> None:
    path.rename(place.root / path.name)
    path.symlink_to(place.root / path.name)


@fault(DESCRIPTION, "A listed file that is a link out of the folder", "leads out of the dataset")
def _(place: Place) -> list[str]:
    place.in_msd_form()
    _link_out(place, place.label(1))
    return place.check()


@fault(DESCRIPTION, "The same in nnU-Net's layout", "is a link that leads out of the dataset", "Copy the file")
def _(place: Place) -> list[str]:
    _link_out(place, place.label(1))
    return place.check()


@fault(DESCRIPTION, "A link to a file that is gone", "box_00", "there is no such file")
def _(place: Place) -> list[str]:
    place.image().unlink()
    place.image().symlink_to(place.data / "imagesTr" / "gone.nii.gz")
    return place.check()


@fault(DESCRIPTION, "Channel files with a gap in their numbers", "has the channel files _0000, _0002")
def _(place: Place) -> list[str]:
    _two_channels(place).rename(place.data / "imagesTr" / "box_00_0002.nii.gz")
    return place.check()


@fault(DESCRIPTION, "No training cases", "there are no training cases")
def _(place: Place) -> list[str]:
    for name in ("imagesTr", "labelsTr"):
        shutil.rmtree(place.data / name)
        (place.data / name).mkdir()
    return place.check()


@fault(DESCRIPTION, "A single training case", "there are 1 training cases", "At least two")
def _(place: Place) -> list[str]:
    for number in range(1, 5):
        place.image(number).unlink()
        place.label(number).unlink()
    return place.check()


@fault(DESCRIPTION, "Fewer cases than folds", "4 training cases are fewer than 5 folds", ending="warning")
def _(place: Place) -> list[str]:
    place.image(4).unlink()
    place.label(4).unlink()
    return place.check()


@fault(DESCRIPTION, "A split with a case that is not there", "fold 0 names stranger, which is no training case")
def _(place: Place) -> list[str]:
    (place.data / "splits_final.json").write_text(json.dumps([{"train": ["box_00", "stranger"], "val": ["box_01"]}]))
    return place.check()


@fault(DESCRIPTION, "A split with a case on both sides", "fold 0 has box_01 on both sides")
def _(place: Place) -> list[str]:
    splits = [{"train": ["box_00", "box_01"], "val": ["box_01"]}]
    (place.data / "splits_final.json").write_text(json.dumps(splits))
    return place.check()


@fault(DESCRIPTION, "Spaces and other scripts in the path", ending="silent")
def _(place: Place) -> list[str]:
    folder = place.root / "Ärzte 数据 with spaces"
    place.data.rename(folder)
    return ["check", str(folder), "--workers", "1"]


# -- fit --

FIT = "check and fit"


def _two_bad(place: Place) -> None:
    place.voxels(place.image(1), _one_bad(np.nan))
    place.label(3).unlink()


@fault(FIT, "Several bad cases: all are named, and nothing is trained", "NaN", "has no label file")
def _(place: Place) -> list[str]:
    _two_bad(place)
    return place.check()


@fault(FIT, "The same with --skip-bad-cases", "box_01 is left out", "box_03 is left out", ending="warning")
def _(place: Place) -> list[str]:
    _two_bad(place)
    return place.check("--skip-bad-cases")


@fault(FIT, "--skip-bad-cases where nothing is left", "there are 0 training cases")
def _(place: Place) -> list[str]:
    for number in range(5):
        place.image(number).write_bytes(b"")
    return place.check("--skip-bad-cases")


@fault(FIT, "An output folder below a file", "cannot be written (Not a directory)", "Choose another folder")
def _(place: Place) -> list[str]:
    (place.root / "run").write_text("")
    return ["plan", str(place.data), "-o", str(place.root / "run" / "deep"), "--workers", "1"]


@fault(FIT, "A read-only output folder", "cannot be written (Permission denied)", unprivileged=True)
def _(place: Place) -> list[str]:
    (place.root / "run").mkdir(mode=0o555)
    return place.fit()


@fault(FIT, "A plan.json that is no JSON", "plan.json: is not valid JSON")
def _(place: Place) -> list[str]:
    command = place.plan(lambda body: None)
    (place.root / "run" / "plan.json").write_text("{")
    return command


@fault(FIT, "Another record under the name plan.json", '"schema" is', "is needed here")
def _(place: Place) -> list[str]:
    command = place.plan(lambda body: None)
    shutil.copyfile(place.root / "run" / "fingerprint.json", place.root / "run" / "plan.json")
    return command


@fault(FIT, "A negative patch in plan.json", "configurations.3d.patch_size.0", "greater than 0")
def _(place: Place) -> list[str]:
    return place.plan(lambda body: body["configurations"]["3d"].update(patch_size=[-16, 16, 16]))


@fault(FIT, "A patch in plan.json that cannot be pooled", "a patch edge of 15 cannot be pooled")
def _(place: Place) -> list[str]:
    return place.plan(lambda body: body["configurations"]["3d"].update(patch_size=[15, 15, 15]))


@fault(FIT, "A patch in plan.json of 10^14 voxels", "voxels is too large")
def _(place: Place) -> list[str]:
    return place.plan(lambda body: body["configurations"]["3d"].update(patch_size=[65536, 65536, 65536]))


@fault(FIT, "10^9 feature maps in plan.json", "base_features", "less than or equal to 65536")
def _(place: Place) -> list[str]:
    return place.plan(lambda body: body["configurations"]["3d"].update(base_features=10**9))


@fault(FIT, "A network in plan.json that no machine holds", "weights is too large")
def _(place: Place) -> list[str]:
    return place.plan(lambda body: body["configurations"]["3d"].update(base_features=65536, max_features=None))


@fault(FIT, "A spacing of 0 in plan.json", "spacing.0", "greater than 0")
def _(place: Place) -> list[str]:
    return place.plan(lambda body: body["configurations"]["3d"].update(spacing=[0, 1, 1]))


@fault(FIT, "A misspelt key in plan.json", "batchsize", "Extra inputs are not permitted")
def _(place: Place) -> list[str]:
    return place.plan(lambda body: body["configurations"]["3d"].update(batchsize=2))


# -- models --

MODELS = "Models"


def _weights(place: Place, name: str = "2d", fold: int = 0) -> Path:
    return place.model / "weights" / f"{name}_fold_{fold}.safetensors"


@fault(MODELS, "A folder without model.json", "holds no model (no model.json)")
def _(place: Place) -> list[str]:
    (place.model / "model.json").unlink()
    return place.predict()


@fault(MODELS, "A model.json that is no JSON", "model.json: is not valid JSON")
def _(place: Place) -> list[str]:
    (place.model / "model.json").write_text("{")
    return place.predict()


@fault(MODELS, "A missing weights file", "the weights file is missing")
def _(place: Place) -> list[str]:
    _weights(place).unlink()
    return place.predict()


@fault(MODELS, "A truncated weights file", "the weights are not those that the model was made with")
def _(place: Place) -> list[str]:
    _weights(place).write_bytes(_weights(place).read_bytes()[:-100])
    return place.predict()


@fault(MODELS, "The same in a model without checksums", "the weights file is damaged")
def _(place: Place) -> list[str]:
    place.edit(place.model / "model.json", lambda body: [member.update(checksums=[]) for member in body["members"]])
    _weights(place).write_bytes(_weights(place).read_bytes()[:-100])
    return place.predict()


@fault(MODELS, "The weights of two folds swapped", "the weights are not those that the model was made with")
def _(place: Place) -> list[str]:
    shutil.copyfile(_weights(place, fold=1), _weights(place))
    return place.predict()


@fault(MODELS, "The weights of another network, without checksums", "the weights are of another network")
def _(place: Place) -> list[str]:
    place.edit(place.model / "model.json", lambda body: [member.update(checksums=[]) for member in body["members"]])
    shutil.copyfile(_weights(place, "3d"), _weights(place))
    return place.predict()


@fault(MODELS, "A pickle under the name of a weights file", "the weights are not those")
def _(place: Place) -> list[str]:
    _weights(place).write_bytes(b"\x80\x04cposix\nsystem\n(S'echo'\ntR.")
    return place.predict()


@fault(MODELS, "A model.json that names weights elsewhere", "are not inside of the model folder")
def _(place: Place) -> list[str]:
    place.edit(place.model / "model.json", lambda body: body["members"][0].update(weights=["../x", "/etc/passwd"]))
    return place.predict()


@fault(MODELS, "A model.json with 10^9 feature maps", "base_features", "less than or equal to 65536")
def _(place: Place) -> list[str]:
    place.edit(
        place.model / "model.json", lambda body: body["plan"]["configurations"]["2d"].update(base_features=10**9)
    )
    return place.predict()


@fault(MODELS, "Importing a folder that nnU-Net did not write", "is no results folder of nnU-Net v2")
def _(place: Place) -> list[str]:
    return ["import", "nnunet", str(place.data), "-o", str(place.root / "imported")]


@fault(MODELS, "Importing a checkpoint that is no file of PyTorch", "is no checkpoint of nnU-Net v2, or incomplete")
def _(place: Place) -> list[str]:
    folder = place.root / "Trainer__Plans__2d"
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text("{}")
    (folder / "dataset.json").write_text("{}")
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(b"\x80\x04cposix\nsystem\n(S'echo'\ntR.")
    return ["import", "nnunet", str(folder), "-o", str(place.root / "imported")]


# -- prediction and evaluation --

PREDICT = "predict and evaluate"


@fault(PREDICT, "One truncated image of several: the others are written", "the compressed data are damaged", code=2)
def _(place: Place) -> list[str]:
    path = place.data / "imagesTs" / "box_05_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:-100])
    return place.predict()


@fault(PREDICT, "One image with NaN of several: the others are written", "NaN or infinite", code=2)
def _(place: Place) -> list[str]:
    place.voxels(place.data / "imagesTs" / "box_05_0000.nii.gz", _one_bad(np.nan))
    return place.predict()


@fault(PREDICT, "An image of two channels for a model of one", "has 2 channels, but the model was trained on 1", code=2)
def _(place: Place) -> list[str]:
    place.voxels(place.data / "imagesTs" / "box_05_0000.nii.gz", lambda array: np.stack([array, array]))
    return place.predict()


@fault(PREDICT, "A picture for a model of volumes", "the image is 2D, but the model was trained on 3D", code=2)
def _(place: Place) -> list[str]:
    path = place.data / "imagesTs" / "box_05_0000.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(path))[:, :, 5], str(path))
    return place.predict()


@fault(PREDICT, "A spacing in micrometres for a model in millimetres", "more than memory holds", code=2)
def _(place: Place) -> list[str]:
    path = place.data / "imagesTs" / "box_05_0000.nii.gz"
    place.header(path, lambda image: image.SetSpacing((12000.0, 10000.0, 15000.0)))
    return place.predict()


@fault(PREDICT, "An image that is not there", "there is no such file or folder", code=64)
def _(place: Place) -> list[str]:
    return place.predict(place.root / "nowhere.nii.gz")


@fault(PREDICT, "A folder without images", "there are no images", code=64)
def _(place: Place) -> list[str]:
    (place.root / "empty").mkdir()
    return place.predict(place.root / "empty")


@fault(PREDICT, "Two images of one name", "several images have this name", code=64)
def _(place: Place) -> list[str]:
    shutil.copytree(place.data / "imagesTs", place.root / "more")
    return place.predict(place.data / "imagesTs", place.root / "more")


@fault(PREDICT, "A read-only folder for predictions", "cannot be written", unprivileged=True)
def _(place: Place) -> list[str]:
    (place.root / "out").mkdir(mode=0o555)
    return place.predict()


@fault(PREDICT, "Scoring label maps of another shape", "shape")
def _(place: Place) -> list[str]:
    place.voxels(place.data / "labelsTs" / "box_05.nii.gz", lambda array: array[:-1], np.uint8)
    shutil.copytree(place.data / "labelsTs", place.root / "references")
    place.voxels(place.root / "references" / "box_05.nii.gz", lambda array: array[:-1], np.uint8)
    return _evaluate(place)


@fault(PREDICT, "Scoring a truncated label map", "the compressed data are damaged")
def _(place: Place) -> list[str]:
    shutil.copytree(place.data / "labelsTs", place.root / "references")
    path = place.data / "labelsTs" / "box_05.nii.gz"
    path.write_bytes(path.read_bytes()[:-20])
    return _evaluate(place)


@fault(PREDICT, "Scoring a label map without reference", "box_06", code=64)
def _(place: Place) -> list[str]:
    shutil.copytree(place.data / "labelsTs", place.root / "references")
    (place.root / "references" / "box_06.nii.gz").unlink()
    return _evaluate(place)


def _evaluate(place: Place) -> list[str]:
    names = [str(place.data / "labelsTs"), str(place.root / "references")]
    return ["evaluate", *names, "-o", str(place.root / "scores.json"), "--workers", "1"]

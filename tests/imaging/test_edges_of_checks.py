"""Where checks begin and end: half a voxel, a flipped bit, a value that is not the first of its region."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from voxfit.core.errors import DatasetError
from voxfit.imaging.dataset import Dataset
from voxfit.imaging.files import Case
from voxfit.imaging.labels import Label, Labels, Region
from voxfit.imaging.verification import verify_case
from voxfit.imaging.volume import read_image


def labels(*values: int, regions: tuple[Region, ...] = ()) -> Labels:
    return Labels(classes=tuple(Label(name=f"class {value}", value=value) for value in values), regions=regions)


def test_a_given_split_forgets_cases_that_are_left_out() -> None:
    names = ("a", "b", "c", "d")
    dataset = Dataset(
        folder=Path("x"),
        name="x",
        channel_names=("MRI",),
        labels=labels(1),
        cases=tuple(Case(name=name, images=(f"{name}.nii",)) for name in names),
        splits=((("a", "b", "c"), ("d",)), (("a", "d"), ("b", "c"))),
    )
    left = dataset.without({"b", "d"})
    assert [case.name for case in left.cases] == ["a", "c"]
    assert left.splits == ((("a", "c"), ()), (("a",), ("c",)))


def test_regions_are_pasted_with_the_value_that_they_are_given() -> None:
    """Which need not be their first, nor even one of theirs."""
    found = labels(
        2,
        5,
        9,
        regions=(
            Region(name="whole", values=(9, 2, 5), paste=2),
            Region(name="core", values=(5, 9), paste=9),
            Region(name="rim", values=(5,), paste=5),
        ),
    )
    outputs = np.array([[0.9, 0.9, 0.9, 0.1], [0.1, 0.9, 0.9, 0.1], [0.1, 0.1, 0.9, 0.1]])
    assert np.take(found.values, found.decide(outputs)).tolist() == [2, 9, 5, 0]


@pytest.mark.parametrize(("shift", "problems"), [(0.0005, 0), (0.01, 1), (0.5, 1)])
def test_a_label_that_lies_elsewhere_is_told_from_a_thousandth_of_a_voxel_on(
    tmp_path: Path, shift: float, problems: int
) -> None:
    image = np.random.default_rng(0).random((5, 6, 7), np.float32)
    affine = np.eye(4)
    nib.save(nib.Nifti1Image(image, affine), tmp_path / "image.nii.gz")
    affine[1, 3] = shift
    nib.save(nib.Nifti1Image((image > 0.5).astype(np.uint8), affine), tmp_path / "label.nii.gz")
    case = Case(name="x", images=(str(tmp_path / "image.nii.gz"),), label=str(tmp_path / "label.nii.gz"))
    found, summary = verify_case((case, 1, labels(1)))
    assert len(found) == problems
    assert all(f"{shift:g} voxels apart" in problem.what and not problem.fatal for problem in found)
    assert summary is not None


def test_no_flipped_bit_of_a_png_goes_unseen(tmp_path: Path) -> None:
    """Be it of its pixels, or of its spacing, without which libpng reads it all the same."""
    path = tmp_path / "x.png"
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 256, (40, 50)).astype(np.uint8))
    image.SetSpacing((0.25, 0.75))
    sitk.WriteImage(image, str(path))
    whole = path.read_bytes()
    assert read_image(path).array.shape == (1, 1, 40, 50)
    assert read_image(path).geometry.spacing_mm[1:] == (0.75, 0.25)
    start, pixels = whole.index(b"sCAL"), whole.index(b"IDAT")
    assert start < pixels - 8
    for place in {*range(8, len(whole), 7), *range(start, pixels - 4)}:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(DatasetError):
            read_image(path)


@pytest.mark.parametrize(("shear", "refused"), [(0.001, False), (0.05, True), (0.3, True)])
def test_sheared_axes_of_other_formats_are_refused(tmp_path: Path, shear: float, refused: bool) -> None:
    image = sitk.Image(5, 6, 7, sitk.sitkFloat32)
    image.SetDirection((1.0, shear, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    sitk.WriteImage(image, str(tmp_path / "x.mha"))
    if refused:
        with pytest.raises(DatasetError, match="not orthonormal"):
            read_image(tmp_path / "x.mha")
    else:
        assert read_image(tmp_path / "x.mha").array.shape == (1, 7, 6, 5)


def test_classes_are_numbered_by_their_values_whatever_their_names() -> None:
    found = Labels.from_description({"background": 0, "zeta": 1, "alpha": 2, "mu": 7})
    assert (found.names, found.values) == (("zeta", "alpha", "mu"), (0, 1, 2, 7))

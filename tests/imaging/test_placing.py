"""Where NIfTI headers place images, and label maps with the same header: nibabel says both."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from voxfit.core.errors import DatasetError
from voxfit.imaging.correction import misplaced_label
from voxfit.imaging.files import Case
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.labels import Label, Labels
from voxfit.imaging.places import placing_problem
from voxfit.imaging.placing import read_placing
from voxfit.imaging.verification import read_labelled
from voxfit.imaging.volume import read_image, read_label
from voxfit.imaging.writing import write_label

SHAPE = (6, 5, 4)
"""(x, y, z), as nibabel has it."""
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
TURNED = np.eye(4)
TURNED[:3, :3] = Rotation.from_euler("xyz", [10, -25, 40], degrees=True).as_matrix() * [1.1, 0.7, 2.3]
TURNED[:3, 3] = 31.7, -12.3, 400.1
MIRRORED = np.diag([-1.7, -1.7, 2.0, 1.0])
MOVED = np.array([[1.7, 0, 0, 7], [0, -1.7, 0, 8], [0, 0, 2, 9], [0, 0, 0, 1]])
FORMS: dict[str, tuple[np.ndarray | None, np.ndarray | None]] = {
    "both agree": (TURNED, TURNED),
    "they differ": (MOVED, MIRRORED),
    "sform only": (TURNED, None),
    "qform only": (None, TURNED),
    "neither": (None, None),
    "straight": (MIRRORED, None),
}
"""sform and qform."""


def save(path: Path, forms: str, *, kind: type = nib.Nifti1Image, order: str = "<", **more: Any) -> np.ndarray:
    """An image of a kind; every voxel another value."""
    shape = more.pop("shape", SHAPE)
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    image = kind(array, None, kind.header_class(endianness=order))
    image.header.set_zooms((1.7, 1.7, 2.0, 1.0)[: len(shape)])
    sform, qform = FORMS[forms]
    image.set_sform(sform, more.pop("sform_code", 2) if sform is not None else 0)
    image.set_qform(qform, more.pop("qform_code", 1) if qform is not None else 0)
    image.header.set_xyzt_units(more.pop("units", "mm"))
    nib.save(image, path)
    return array


def place_of(path: Path) -> dict[str, Any]:
    """All that a header says of the place, by nibabel, and where SimpleITK puts the image."""
    image = nib.load(path)
    header = image.header
    fields = ["qform_code", "sform_code", "xyzt_units", "srow_x", "srow_y", "srow_z"]
    fields += ["quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"]
    found = {name: header[name].tolist() for name in fields}
    found |= {"affine": image.affine.tolist(), "zooms": header["pixdim"][:4].tolist(), "version": type(header)}
    found |= {"order": header.endianness, "shape": image.shape[:3]}
    if isinstance(image, nib.Nifti2Image):  # SimpleITK does not read it
        return found
    seen = sitk.ReadImage(str(path))
    dimension = min(seen.GetDimension(), 3)
    rows = np.reshape(seen.GetDirection(), (seen.GetDimension(),) * 2)[:dimension, :dimension]
    return found | {"direction": rows.tolist(), "origin": seen.GetOrigin()[:3], "spacing": seen.GetSpacing()[:3]}


@pytest.mark.parametrize("forms", FORMS)
@pytest.mark.parametrize(("order", "ending"), [("<", ".nii.gz"), (">", ".nii")])
def test_a_label_map_lies_where_its_image_does_for_every_program(
    tmp_path: Path, forms: str, order: str, ending: str
) -> None:
    image, path = tmp_path / f"image{ending}", tmp_path / f"label{ending}"
    array = save(image, forms, order=order)
    label = (array % 7).astype(np.uint8)
    write_label(path, label.transpose(), read_image(image).geometry, like=image)
    assert place_of(path) == place_of(image)
    np.testing.assert_array_equal(nib.load(path).get_fdata(), label)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), label.transpose())
    assert nib.load(path).get_data_dtype().newbyteorder("=") == np.uint8
    assert read_label(path).geometry == read_image(image).geometry


@pytest.mark.parametrize("order", "<>")
def test_numbers_of_double_precision_keep_it(tmp_path: Path, order: str) -> None:
    """NIfTI-2, for the day on which SimpleITK reads it; until then it is named."""
    save(tmp_path / "image.nii", "they differ", kind=nib.Nifti2Image, order=order)
    write_label(
        tmp_path / "x.nii",
        np.ones(SHAPE[::-1], np.uint8),
        Geometry(SHAPE[::-1], (1.0,) * 3),
        like=tmp_path / "image.nii",
    )
    assert place_of(tmp_path / "x.nii") == place_of(tmp_path / "image.nii")
    np.testing.assert_array_equal(nib.load(tmp_path / "x.nii").get_fdata(), np.ones(SHAPE))
    with pytest.raises(DatasetError, match="Save it as NIfTI-1"):
        read_image(tmp_path / "x.nii")


@pytest.mark.parametrize("units", ["meter", "micron", "unknown"])
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 4, 2), (6, 5, 4, 1)])
def test_units_and_other_numbers_of_axes(tmp_path: Path, units: str, shape: tuple[int, ...]) -> None:
    image, path = tmp_path / "image.nii", tmp_path / "label.nii.gz"
    forms = "they differ" if len(shape) > 2 else "straight"
    save(image, forms, shape=shape, units=units)
    grid = read_image(image).geometry
    write_label(path, np.ones(grid.shape, np.uint16), grid, like=image)
    assert place_of(path) == place_of(image)
    assert read_label(path).geometry == grid


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_integers_of_every_kind(tmp_path: Path, dtype: str, order: str) -> None:
    save(tmp_path / "image.nii", "they differ", order=order)
    limits = np.iinfo(dtype)
    values = np.resize([limits.min, limits.max, 0, 1], SHAPE[::-1]).astype(dtype)
    write_label(tmp_path / "x.nii", values, read_image(tmp_path / "image.nii").geometry, like=tmp_path / "image.nii")
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "x.nii").dataobj).transpose(), values)
    np.testing.assert_array_equal(read_label(tmp_path / "x.nii").array, values)


def test_another_format_and_another_shape_have_the_geometry_alone(tmp_path: Path) -> None:
    """There is no header to take over, or it is of another image."""
    save(tmp_path / "image.nii", "both agree")
    grid = read_image(tmp_path / "image.nii").geometry
    write_label(tmp_path / "x.mha", np.ones(grid.shape, np.uint8), grid, like=tmp_path / "image.nii")
    write_label(tmp_path / "y.nii", np.ones(grid.shape, np.uint8), grid, like=tmp_path / "x.mha")
    write_label(tmp_path / "z.nii", np.ones(grid.shape, np.uint8), grid, like=tmp_path / "absent.nii")
    for name in ("x.mha", "y.nii", "z.nii"):
        np.testing.assert_allclose(read_label(tmp_path / name).geometry.affine(), grid.affine(), atol=1e-4)


rotations = st.integers(0, 10**6).map(lambda seed: Rotation.random(random_state=seed).as_matrix())


def turned(rotation: np.ndarray, spacing: tuple[float, ...], offset: tuple[float, ...]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation * spacing, offset
    return affine


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rotations, rotations, st.tuples(*[st.floats(0.1, 9)] * 3), st.sampled_from([1, -1]))
def test_both_forms_are_those_that_nibabel_and_simpleitk_read(
    tmp_path: Path, one: np.ndarray, other: np.ndarray, spacing: tuple[float, ...], sign: int
) -> None:
    sform = turned(one * [1, 1, sign], spacing, (10.5, -20.25, 300.0))
    qform = turned(other * [1, 1, sign], spacing, (-100.5, 0.0, 30.0))
    image = nib.Nifti1Image(np.zeros(SHAPE, np.uint8), None)
    image.set_sform(sform, 0)
    image.set_qform(qform, 1)
    nib.save(image, tmp_path / "q.nii")
    image.set_sform(sform, 2)
    nib.save(image, tmp_path / "x.nii")
    saved, placing = nib.load(tmp_path / "x.nii").header, read_placing(tmp_path / "x.nii")
    assert placing is not None
    np.testing.assert_allclose(TO_LPS @ placing.affines["sform"], saved.get_sform(), atol=1e-5)
    np.testing.assert_allclose(placing.affines["qform"], read_image(tmp_path / "q.nii").geometry.affine(), atol=1e-4)
    corners = np.array([*itertools.product(*((0, size - 1) for size in SHAPE), [1])]).T
    separate_axis = np.linalg.norm(((sform - qform) @ corners)[:3], axis=0).max()
    assert placing.disagreement_mm == pytest.approx(separate_axis, abs=0.05)


NEARLY_BACK = Rotation.from_rotvec(np.array([0.6, 0.48, 0.64]) * (np.pi - 5e-4)).as_matrix()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rotations | st.just(NEARLY_BACK), st.tuples(*[st.floats(0.7, 1.5)] * 3))
def test_a_quaternion_that_is_rounded_is_no_disagreement(
    tmp_path: Path, rotation: np.ndarray, spacing: tuple[float, ...]
) -> None:
    affine = turned(rotation, spacing, (-200.0, 150.0, 700.0))
    image = nib.Nifti1Image(np.zeros((300, 300, 10), np.uint8), affine)
    image.set_qform(affine, 1)
    nib.save(image, tmp_path / "x.nii")
    assert placing_problem(tmp_path / "x.nii") is None


def test_what_an_unplaced_image_is_assumed_to_be(tmp_path: Path) -> None:
    save(tmp_path / "x.nii", "neither")
    placing = read_placing(tmp_path / "x.nii")
    assert placing is not None
    np.testing.assert_allclose(TO_LPS @ placing.first, nib.load(tmp_path / "x.nii").affine, atol=1e-5)


@pytest.mark.parametrize(
    ("codes", "forms"), [((2, 1), ("qform", "sform")), ((1, 2), ("sform", "qform")), ((1, 1), ("sform", "qform"))]
)
def test_the_form_that_counts_is_the_one_that_simpleitk_follows(
    tmp_path: Path, codes: tuple[int, int], forms: tuple[str, str]
) -> None:
    path = tmp_path / "x.nii"
    save(path, "they differ", sform_code=codes[0], qform_code=codes[1])
    saved, read = nib.load(path).header, read_image(path).geometry.affine()
    counts = {
        name: np.allclose(TO_LPS @ read, form)
        for name, form in (("sform", saved.get_sform()), ("qform", saved.get_qform()))
    }
    used = next(name for name in counts if counts[name])
    problem = placing_problem(path)
    assert problem is not None
    assert not problem.fatal
    assert f"the {used} counts here" in problem.what
    assert used == forms[0]


@pytest.mark.parametrize("forms", ["both agree", "sform only", "qform only"])
def test_a_header_that_says_one_thing_is_no_problem(tmp_path: Path, forms: str) -> None:
    save(tmp_path / "x.nii", forms)
    assert placing_problem(tmp_path / "x.nii") is None
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "x.nii")), str(tmp_path / "x.mha"))
    assert placing_problem(tmp_path / "x.mha") is None


LABELS = Labels(classes=tuple(Label(name=str(value), value=value) for value in range(1, 7)))


@pytest.mark.parametrize("forms", ["they differ", "neither"])
@pytest.mark.parametrize("writer", ["nibabel", "simpleitk"])
def test_the_image_is_named_and_not_its_label(tmp_path: Path, forms: str, writer: str) -> None:
    """Whichever of the two places the label was saved with."""
    image, label = tmp_path / "image.nii.gz", tmp_path / "label.nii.gz"
    array = save(image, forms) % 7
    if writer == "nibabel":
        nib.save(nib.Nifti1Image(array.astype(np.uint8), nib.load(image).affine), label)
    else:
        sitk.WriteImage(sitk.Modulus(sitk.ReadImage(str(image), sitk.sitkUInt8), 7), str(label))
    case = Case(name="a", images=(str(image),), label=str(label))
    volume, problems = read_labelled(case, 1, LABELS)
    assert volume is not None
    assert len(problems) == 1
    assert str(image) in problems[0].where
    assert misplaced_label(case) > 1, "for one of the programs the label is elsewhere, so --fix mends it"
    write_label(label, array.transpose().astype(np.uint8), volume.geometry, like=image)
    assert misplaced_label(case) == 0


def test_a_label_that_no_program_lays_over_its_image_is_named_still(tmp_path: Path) -> None:
    image, label = tmp_path / "image.nii.gz", tmp_path / "label.nii.gz"
    array = save(image, "they differ") % 7
    nib.save(nib.Nifti1Image(array.astype(np.uint8), TURNED), label)
    problems = read_labelled(Case(name="a", images=(str(image),), label=str(label)), 1, LABELS)[1]
    assert [("sform and qform" in str(problem), "voxels apart" in str(problem)) for problem in problems] == [
        (True, False),
        (False, True),
    ]


def test_a_label_whose_own_header_says_two_things_is_named(tmp_path: Path) -> None:
    image, label = tmp_path / "image.nii.gz", tmp_path / "label.nii.gz"
    save(label, "they differ")
    sitk.WriteImage(sitk.ReadImage(str(label)), str(image))
    case = Case(name="a", images=(str(image),), label=str(label))
    problems = read_labelled(case, 1, Labels(classes=tuple(Label(name=f"{v}", value=v) for v in range(1, 120))))[1]
    assert [str(label) in problem.where for problem in problems] == [True]
    assert misplaced_label(case) > 1

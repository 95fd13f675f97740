"""Label maps lie where their images do, for nibabel and SimpleITK and for voxfit's own evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from bad_input.faults_places import TEST_IMAGE, two_places, unplaced
from bad_input.place import Place, run_voxfit


@pytest.mark.parametrize("change", [two_places, unplaced])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_a_prediction_lies_where_nibabel_and_simpleitk_place_its_image(
    place: Place, change: object, ending: str
) -> None:
    image = place.data / "imagesTs" / TEST_IMAGE
    if ending == ".nii":
        nib.save(nib.load(image), image.with_name("box_05_0000.nii"))
        image.unlink()
        image = image.with_name("box_05_0000.nii")
    assert callable(change)
    change(image)
    code, said = run_voxfit([*place.predict(image), "--backend", "torch"])
    assert code == 0, said
    (label,) = (place.root / "out").glob("box_05*.nii*")
    np.testing.assert_array_equal(nib.load(label).affine, nib.load(image).affine)
    for name in ("qform_code", "sform_code", "xyzt_units", "quatern_b", "qoffset_x", "srow_x", "pixdim"):
        np.testing.assert_array_equal(nib.load(label).header[name], nib.load(image).header[name])
    ours, theirs = sitk.ReadImage(str(label)), sitk.ReadImage(str(image))
    for get in ("GetSize", "GetOrigin", "GetSpacing", "GetDirection"):
        assert getattr(ours, get)() == getattr(theirs, get)()


def test_a_label_that_nibabel_lays_over_its_image_is_not_blamed_and_not_moved_away(place: Place) -> None:
    two_places(place.image())
    image, voxels = nib.load(place.image()), np.asarray(nib.load(place.label()).dataobj).copy()
    nib.save(nib.Nifti1Image(voxels, image.affine), place.label())
    code, said = run_voxfit(place.check("--fix", str(place.root / "fixed")))
    assert code == 0
    assert "voxels apart" not in said
    fixed = nib.load(place.root / "fixed" / "labelsTr" / "box_00.nii.gz")
    np.testing.assert_array_equal(fixed.affine, image.affine)
    np.testing.assert_array_equal(np.asarray(fixed.dataobj), voxels)
    seen = sitk.ReadImage(str(place.root / "fixed" / "labelsTr" / "box_00.nii.gz"))
    assert seen.GetDirection() == sitk.ReadImage(str(place.image())).GetDirection()
    again = run_voxfit(["check", str(place.root / "fixed"), "--fix", str(place.root / "more"), "--workers", "1"])[1]
    assert "Nothing to fix" in again


SPACING = (2.0, 1.7, 1.6)


def as_stack(source: Path, path: Path, beside: str, kind: type) -> None:
    """A TIFF stack by tifffile, and its spacing in a JSON file."""
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(source))).clip(0, 60000).astype(kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array, photometric="minisblack")
    path.with_name(beside).write_text(json.dumps({"spacing": SPACING}))


@pytest.mark.parametrize("beside", ["box_05.json", "box_05_0000.json"])
def test_evaluation_finds_predicted_tiff_stacks_where_their_images_are(place: Place, beside: str) -> None:
    as_stack(place.data / "imagesTs" / TEST_IMAGE, place.root / "in" / "box_05_0000.tif", beside, np.uint16)
    as_stack(place.data / "labelsTs" / "box_05.nii.gz", place.root / "ref" / "box_05.tif", "box_05.json", np.uint8)
    (place.root / "ref" / "dataset.json").write_text((place.data / "dataset.json").read_text())
    for more in ([], ["--overwrite"]):
        code, said = run_voxfit([*place.predict(place.root / "in"), "--backend", "torch", *more])
        assert code == 0, said
    assert json.loads((place.root / "out" / "box_05.json").read_text())["spacing"] == pytest.approx(SPACING)
    names = [str(place.root / name) for name in ("out", "ref")]
    code, said = run_voxfit(["evaluate", *names, "-o", str(place.root / "scores.json"), "--workers", "1"])
    assert code == 0, said
    assert "warning" not in said


def test_a_corrected_copy_of_tiff_stacks_has_their_spacing(place: Place) -> None:
    data = place.root / "stacks"
    for number in range(5):
        name = f"box_{number:02}"
        as_stack(place.image(number), data / "imagesTr" / f"{name}_0000.tif", f"{name}.json", np.uint16)
        as_stack(place.label(number), data / "labelsTr" / f"{name}.tif", f"{name}.json", np.uint8)
    (data / "labelsTr" / "box_03.json").unlink()
    body = json.loads((place.data / "dataset.json").read_text()) | {"file_ending": ".tif"}
    (data / "dataset.json").write_text(json.dumps(body))
    code, said = run_voxfit(["check", str(data), "--fix", str(place.root / "fixed"), "--workers", "1"])
    assert code == 0, said
    assert "1 labels were corrected" in said
    assert not (data / "labelsTr" / "box_03.json").exists()
    code, said = run_voxfit(["check", str(place.root / "fixed"), "--workers", "1"])
    assert code == 0
    assert "warning" not in said

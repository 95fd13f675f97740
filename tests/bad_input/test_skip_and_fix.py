"""What --skip-bad-cases and --fix leave behind, and that a run goes on as it began."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import voxfit
from bad_input.place import Place, run_voxfit
from builders.steps import begin
from voxfit.core.errors import DatasetError
from voxfit.imaging.dataset import Dataset
from voxfit.planning.plan import Limits
from voxfit.planning.recipes import Recipe
from voxfit.running.fit import fit

LIMITS = Limits(voxel_budget=4096, plane_voxels=2048, base_features=4)
RECIPE = Recipe(folds=2, steps_per_epoch=2, validation_steps=1)


def request(place: Place, *, skip: bool = True) -> voxfit.FitRequest:
    return voxfit.FitRequest(
        place.data,
        place.root / "run",
        configurations=("2d",),
        folds=(0,),
        recipe=RECIPE,
        epochs=1,
        device="cpu",
        limits=LIMITS,
        workers=1,
        skip_bad_cases=skip,
    )


def damage(place: Place) -> None:
    """One case that dataset.json already shows, and one that only its file does."""
    place.label(3).unlink()
    place.image(1).write_bytes(place.image(1).read_bytes()[:-100])


LEFT = ["box_00", "box_02", "box_04"]


def test_a_fit_without_bad_cases_says_so_everywhere_and_goes_on_alike(place: Place) -> None:
    damage(place)
    place.data.joinpath("splits_final.json").write_text(
        json.dumps(
            [
                {"train": ["box_00", "box_01", "box_02"], "val": ["box_03", "box_04"]},
                {"train": ["box_03", "box_04"], "val": ["box_00", "box_01", "box_02"]},
            ]
        )
    )
    fit(request(place))
    run = place.root / "run"
    record = json.loads((run / "dataset.json").read_text())
    assert [case["name"] for case in record["cases"]] == LEFT
    assert [case["name"] for case in record["skipped"]] == ["box_01", "box_03"]
    folds = json.loads((run / "folds.json").read_text())
    assert folds["validation"][0] == ["box_04"]
    page = (run / "report.html").read_text()
    assert "2 training cases could not be used and were left out: box_01, box_03." in page
    assert "has no label file in labelsTr" in page

    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    fit(request(place))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert not (run / "superseded").exists()


def test_without_the_wish_to_skip_bad_cases_are_an_error_again(place: Place) -> None:
    damage(place)
    assert [case.name for case in begin(request(place)).dataset.cases] == LEFT
    with pytest.raises(DatasetError, match="box_03"):
        assert begin(request(place, skip=False)).dataset
    shutil.copyfile(place.label(2), place.label(3))
    with pytest.raises(DatasetError, match="box_01"):
        assert begin(request(place, skip=False)).dataset


def test_a_case_that_was_repaired_takes_part(place: Place, template: Path) -> None:
    damage(place)
    first = begin(request(place)).plan
    shutil.copyfile(template / "data" / "imagesTr" / "box_01_0000.nii.gz", place.image(1))
    again = begin(request(place))
    assert [case.name for case in again.dataset.cases] == ["box_00", "box_01", "box_02", "box_04"]
    assert again.plan.num_cases == first.num_cases + 1
    assert [case.name for case in again.fingerprint.skipped] == ["box_03"]


def test_where_nothing_is_wrong_skipping_changes_nothing(place: Place) -> None:
    first = begin(request(place, skip=False))
    digests = (first.fingerprint.digest(), first.plan.digest(), first.folds.digest())
    again = begin(request(place))
    assert (again.fingerprint.digest(), again.plan.digest(), again.folds.digest()) == digests
    assert not (place.root / "run" / "superseded").exists()


def test_a_fixed_copy_has_the_voxels_and_the_images_headers(place: Place) -> None:
    moved = place.label(2)
    place.header(moved, lambda image: (image.SetOrigin((0, 0, 0)), image.SetSpacing((3, 3, 3))))
    before = {path: path.read_bytes() for path in place.data.rglob("*") if path.is_file()}
    fixed = place.root / "fixed"
    code, said = run_voxfit(place.check("--fix", str(fixed)))
    assert code == 0, said
    assert "box_02.nii.gz: has the image's header now" in said
    assert {path: path.read_bytes() for path in place.data.rglob("*") if path.is_file()} == before
    assert {path.relative_to(fixed) for path in fixed.rglob("*")} == {
        path.relative_to(place.data) for path in place.data.rglob("*")
    }
    for path, content in before.items():
        copy = fixed / path.relative_to(place.data)
        if path != moved:
            assert copy.read_bytes() == content
    label, image = sitk.ReadImage(str(fixed / "labelsTr" / moved.name)), sitk.ReadImage(str(place.image(2)))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(label), sitk.GetArrayFromImage(sitk.ReadImage(str(moved))))
    np.testing.assert_allclose(label.GetOrigin(), image.GetOrigin())
    np.testing.assert_allclose(label.GetSpacing(), image.GetSpacing())
    np.testing.assert_allclose(label.GetDirection(), image.GetDirection())
    code, said = run_voxfit(["check", str(fixed), "--workers", "1"])
    assert code == 0
    assert "warning" not in said
    assert len(Dataset.open(fixed).cases) == 5


def test_a_fixed_copy_never_replaces_a_folder(place: Place) -> None:
    place.header(place.label(2), lambda image: image.SetOrigin((0, 0, 0)))
    (place.root / "there").mkdir()
    code, said = run_voxfit(place.check("--fix", str(place.root / "there")))
    assert code == 64
    assert "is there already" in said
    assert not list((place.root / "there").iterdir())

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from voxfit.core.errors import UsageError
from voxfit.imaging.dataset import Dataset
from voxfit.imaging.phantom import LABELS, Flavour, draw_phantom, write_phantom
from voxfit.imaging.verification import verify_case

FLAVOURS: tuple[Flavour, ...] = ("ct", "mr")
CASES = range(8)


@pytest.fixture(scope="module", params=FLAVOURS)
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp(request.param) / "phantom"
    write_phantom(folder, flavour=request.param, cases=5, test_cases=2, seed=3)
    return Dataset.open(folder)


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_dataset_is_found_and_has_no_problems(dataset: Dataset) -> None:
    assert dataset.problems == ()
    assert [case.name for case in dataset.cases] == [f"phantom_{number:03d}" for number in range(5)]
    assert [case.name for case in dataset.test_cases] == ["phantom_005", "phantom_006"]
    assert dataset.labels.names == ("liver", "kidney", "lesion")
    assert (dataset.name, dataset.channel_names) in [("PhantomCT", ("CT",)), ("PhantomMR", ("MRI",))]
    for case in dataset.cases:
        assert verify_case((case, 1, dataset.labels))[0] == []


def test_the_layout_is_that_of_nnunet_with_labels_of_the_test_images(dataset: Dataset) -> None:
    description = json.loads((dataset.folder / "dataset.json").read_text())
    assert (description["numTraining"], description["file_ending"]) == (5, ".nii.gz")
    expected = ["dataset.json"]
    for number in range(7):
        part = "Tr" if number < 5 else "Ts"
        expected += [f"images{part}/phantom_{number:03d}_0000.nii.gz", f"labels{part}/phantom_{number:03d}.nii.gz"]
    assert _files(dataset.folder) == sorted(expected)


def test_image_and_label_files_have_one_geometry_and_what_was_drawn(dataset: Dataset) -> None:
    flavour: Flavour = "ct" if dataset.channel_names == ("CT",) else "mr"
    for number in range(7):
        part = "Tr" if number < 5 else "Ts"
        image = sitk.ReadImage(str(dataset.folder / f"images{part}/phantom_{number:03d}_0000.nii.gz"))
        label = sitk.ReadImage(str(dataset.folder / f"labels{part}/phantom_{number:03d}.nii.gz"))
        drawn_image, drawn_label = draw_phantom(flavour, 3, number)
        assert image.GetPixelID() == (sitk.sitkInt16 if flavour == "ct" else sitk.sitkUInt16)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), drawn_image.array)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(label), drawn_label.array)
        for file in (image, label):
            np.testing.assert_allclose(file.GetSpacing()[::-1], drawn_image.geometry.spacing_mm, rtol=1e-6)
            np.testing.assert_allclose(file.GetOrigin(), drawn_image.geometry.origin_mm, rtol=1e-6)
            np.testing.assert_allclose(file.GetDirection(), drawn_image.geometry.direction, atol=1e-6)


def test_the_same_request_writes_the_same_again_and_completes_what_was_interrupted(tmp_path: Path) -> None:
    def write() -> dict[str, bytes]:
        write_phantom(tmp_path, cases=1, test_cases=1)
        return {name: (tmp_path / name).read_bytes() for name in _files(tmp_path) if "images" in name}

    first = write()
    (tmp_path / "labelsTs/phantom_001.nii.gz").unlink()
    assert write() == first
    assert (tmp_path / "labelsTs/phantom_001.nii.gz").is_file()


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_seed_and_number_determine_a_case(flavour: Flavour) -> None:
    image, label = draw_phantom(flavour, 1, 2)
    again, label_again = draw_phantom(flavour, 1, 2)
    assert image.array.tobytes() == again.array.tobytes()
    assert label.array.tobytes() == label_again.array.tobytes()
    assert image.geometry == label.geometry == again.geometry
    for other in (draw_phantom(flavour, 2, 2)[0], draw_phantom(flavour, 1, 6)[0]):
        assert not np.array_equal(other.array, image.array)
        assert other.geometry != image.geometry


def test_the_flavours_of_a_seed_show_the_same_patient() -> None:
    np.testing.assert_array_equal(draw_phantom("ct", 4, 0)[1].array, draw_phantom("mr", 4, 0)[1].array)


@pytest.mark.parametrize("number", CASES)
def test_every_case_has_all_classes_and_round_lesions_inside_the_liver(number: int) -> None:
    _, volume = draw_phantom("ct", 0, number)
    label = np.asarray(volume.array)
    assert set(np.unique(label)) == set(LABELS.values())
    assert min(np.bincount(label.ravel())[1:]) > 200
    lesion = label == LABELS["lesion"]
    rim = ndimage.binary_dilation(lesion, np.ones((3, 3, 3), bool)) & ~lesion
    assert set(label[rim]) == {LABELS["liver"]}
    components, count = ndimage.label(lesion)
    assert 1 <= count <= 3
    for voxels in np.bincount(components.ravel())[1:]:
        radius_mm = (voxels * np.prod(volume.geometry.spacing_mm) * 3 / (4 * np.pi)) ** (1 / 3)
        assert 3.8 < radius_mm / max(volume.geometry.spacing_mm) < 5.4
    for organ in ("liver", "kidney"):
        assert ndimage.label((label == LABELS[organ]) | (lesion & (organ == "liver")))[1] == 1


def test_grids_vary_in_spacing_size_place_and_orientation() -> None:
    grids = [draw_phantom("mr", 0, number)[1].geometry for number in CASES]
    assert len({grid.spacing_mm for grid in grids}) == len({grid.origin_mm for grid in grids}) == len(grids)
    assert len({grid.shape for grid in grids}) > 4
    assert len({grid.direction for grid in grids}) == 5  # two of the eight are oblique, each in its way
    for grid in grids:
        assert all(40 <= size <= 52 for size in grid.shape)
        assert 1.8 <= grid.spacing_mm[0] <= 2.4
        assert 1.4 <= grid.spacing_mm[1] == grid.spacing_mm[2] <= 1.8
        axes = np.reshape(grid.direction, (3, 3))
        np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)


@pytest.mark.parametrize("number", range(4))
def test_the_liver_is_on_the_right_of_the_patient_in_every_orientation(number: int) -> None:
    _, volume = draw_phantom("ct", 0, number)
    centres = [np.argwhere(volume.array == LABELS[organ]).mean(axis=0)[::-1] for organ in ("liver", "kidney")]
    liver, kidney = (volume.geometry.affine() @ np.append(centre, 1) for centre in centres)
    assert liver[0] < kidney[0] - 10  # LPS: x grows to the left of the patient


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_lesion_stands_out_by_three_deviations(flavour: Flavour) -> None:
    for number in CASES:
        image, label = draw_phantom(flavour, 0, number)
        inside = [
            np.asarray(image.array)[ndimage.binary_erosion(label.array == LABELS[name])].astype(float)
            for name in ("liver", "lesion")
        ]
        deviation = np.sqrt(np.mean([part.var() for part in inside]))
        assert inside[0].mean() - inside[1].mean() > 3 * deviation


def test_ct_has_hounsfield_units_and_mr_a_scale_of_its_own_in_each_case() -> None:
    image, label = draw_phantom("ct", 0, 0)
    voxels = np.asarray(image.array)
    assert np.median(voxels[label.array == LABELS["liver"]]) == pytest.approx(105, abs=10)
    assert np.median(voxels[label.array == LABELS["kidney"]]) == pytest.approx(160, abs=10)
    assert np.median(voxels[:, :2]) == pytest.approx(-1000, abs=10)
    assert voxels.max() > 600
    livers = []
    for number in CASES:
        image, label = draw_phantom("mr", 0, number)
        livers.append(np.median(image.array[label.array == LABELS["liver"]]))
    assert max(livers) > 4 * min(livers)


@pytest.mark.parametrize("content", ["notes.txt", "dataset.json"])
def test_a_folder_with_something_else_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / content).write_text("{}")
    with pytest.raises(UsageError, match="Name a new folder"):
        write_phantom(tmp_path)
    assert _files(tmp_path) == [content]


def test_another_request_for_the_same_folder_is_refused(tmp_path: Path) -> None:
    write_phantom(tmp_path, cases=1, test_cases=0)
    with pytest.raises(UsageError, match="something else"):
        write_phantom(tmp_path, cases=1, test_cases=0, seed=1)
    with pytest.raises(UsageError, match="is a file"):
        write_phantom(tmp_path / "dataset.json")


@pytest.mark.parametrize(("cases", "test_cases", "seed"), [(0, 4, 0), (4, -1, 0), (4, 0, -1)])
def test_impossible_numbers_are_refused(tmp_path: Path, cases: int, test_cases: int, seed: int) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        write_phantom(tmp_path, cases=cases, test_cases=test_cases, seed=seed)


def test_an_unknown_flavour_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ct, mr"):
        write_phantom(tmp_path, flavour="pet")  # type: ignore[arg-type]

"""A run in nnU-Net's layout: read back by our own reader of it, and compared with the original files."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from synthetic import write_boxes
from voxfit.core.errors import UsageError, WorkspaceError
from voxfit.core.layout import Layout
from voxfit.imaging.dataset import Dataset
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.volume import read_geometry
from voxfit.imaging.writing import write_label
from voxfit.interop.nnunet_export import export_nnunet
from voxfit.planning.folds import split
from voxfit.running.reporting import record_dataset


@pytest.fixture
def run(tmp_path):
    """What `fit` leaves that export needs: records, and label maps of two folds."""
    boxes = write_boxes(tmp_path / "boxes", channels=2)
    body = json.loads((boxes / "dataset.json").read_text())
    body |= {"labels": {"background": 0, "both": [2, 5], "right": 5, "ignore": 9}, "regions_class_order": [2, 5]}
    (boxes / "dataset.json").write_text(json.dumps(body))
    dataset, folder = Dataset.open(boxes), tmp_path / "run"
    record_dataset(dataset, folder / "dataset.json")
    folds = split(dataset.cases, 3, 0)
    folds.save(folder / "folds.json")
    layout = Layout(folder)
    for fold in (0, 1):
        for name in folds.validation[fold]:
            array = np.zeros((4, 5, 6), np.uint8)
            array[1:3], array[3] = 2, 5
            write_label(layout.validation("3d", fold).label(name), array, Geometry((4, 5, 6), (1.0, 2.0, 3.0)))
    layout.scores("3d").write_text("{}")
    return folder, dataset, folds


def read(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_images_whose_voxels_lie_in_other_files_are_whole(tmp_path):
    boxes = write_boxes(tmp_path / "boxes", cases=3, test_cases=0)
    for path in [*boxes.rglob("*.nii.gz")]:
        sitk.WriteImage(sitk.ReadImage(str(path)), str(path).replace(".nii.gz", ".mhd"))
        path.unlink()
    body = json.loads((boxes / "dataset.json").read_text())
    (boxes / "dataset.json").write_text(json.dumps(body | {"file_ending": ".mhd"}))
    dataset, folder = Dataset.open(boxes), tmp_path / "run"
    record_dataset(dataset, folder / "dataset.json")
    split(dataset.cases, 3, 0).save(folder / "folds.json")
    found = Dataset.open(export_nnunet(folder, tmp_path / "out", 321))
    for ours, theirs in zip(dataset.cases, found.cases, strict=True):
        assert np.array_equal(read(ours.images[0]), read(theirs.images[0]))


def test_the_raw_dataset_is_the_original_with_indices(run, tmp_path):
    folder, original, _ = run
    raw = export_nnunet(folder, tmp_path / "out", 321)
    assert raw.name == "Dataset321_boxes"
    found = Dataset.open(raw)
    assert found.problems == ()
    assert found.labels.values == (0, 1, 2)
    assert [region.values for region in found.labels.regions] == [(1, 2), (2,)]
    assert [region.paste for region in found.labels.regions] == [1, 2]
    assert found.labels.ignore == 3
    assert [case.name for case in found.cases] == [case.name for case in original.cases]
    for ours, theirs in zip(original.cases, found.cases, strict=True):
        for a, b in zip(ours.images, theirs.images, strict=True):
            assert np.array_equal(read(a), read(b))
        before, after = read(ours.label), read(theirs.label)
        assert np.array_equal(after, np.select([before == 2, before == 5], [1, 2]))


def test_voxels_without_annotation_stay_without(run, tmp_path):
    folder, original, _ = run
    case = original.cases[0]
    image = sitk.ReadImage(case.label)
    image[2, 1, 3] = image[0, 0, 0] = 9
    sitk.WriteImage(image, case.label)
    raw = export_nnunet(folder, tmp_path / "out", 321)
    ignored = json.loads((raw / "dataset.json").read_text())["labels"]["ignore"]
    exported = read(raw / "labelsTr" / f"{case.name}.nii.gz")
    np.testing.assert_array_equal(exported == ignored, read(case.label) == 9)
    assert (exported == ignored).sum() == 2


def test_split_and_predictions_are_where_nnunet_has_them(run, tmp_path):
    folder, _, folds = run
    export_nnunet(folder, tmp_path / "out", 321)
    splits = json.loads((tmp_path / "out/nnUNet_preprocessed/Dataset321_boxes/splits_final.json").read_text())
    assert [tuple(fold["val"]) for fold in splits] == list(folds.validation)
    assert [tuple(fold["train"]) for fold in splits] == [folds.training(fold) for fold in range(3)]
    results = tmp_path / "out/nnUNet_results/Dataset321_boxes/voxfit__nnUNetPlans__3d_fullres"
    for fold in (0, 1):
        files = sorted((results / f"fold_{fold}" / "validation").iterdir())
        assert [path.name for path in files] == [f"{name}.nii.gz" for name in folds.validation[fold]]
        assert all(np.unique(read(path)).tolist() == [0, 1, 2] for path in files)
    assert not (results / "fold_2").exists()


def test_channels_of_one_file_are_taken_apart(run, tmp_path):
    folder, dataset, _ = run
    body = json.loads((folder / "dataset.json").read_text())
    joined = tmp_path / "joined.nii.gz"
    first = dataset.cases[0]
    sitk.WriteImage(sitk.JoinSeries([sitk.ReadImage(path) for path in first.images]), str(joined))
    body["cases"][0]["images"] = [str(joined)]
    (folder / "dataset.json").write_text(json.dumps(body))
    raw = export_nnunet(folder, tmp_path / "out")
    for channel, path in enumerate(first.images):
        exported = sitk.ReadImage(str(raw / "imagesTr" / f"{first.name}_{channel:04d}.nii.gz"))
        assert np.array_equal(sitk.GetArrayFromImage(exported), read(path))
        assert exported.GetSpacing() == pytest.approx(sitk.ReadImage(path).GetSpacing())


def test_what_cannot_be_exported_is_named(run, tmp_path):
    folder, dataset, _ = run
    with pytest.raises(WorkspaceError, match="no run folder"):
        export_nnunet(tmp_path, tmp_path / "out")
    with pytest.raises(UsageError, match="is there already"):
        export_nnunet(folder, folder)
    with pytest.raises(UsageError, match="1 to 999"):
        export_nnunet(folder, tmp_path / "out", 0)
    (tmp_path / "boxes" / "imagesTr" / f"{dataset.cases[0].name}_0000.nii.gz").unlink()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(WorkspaceError, match="no longer there"):
        export_nnunet(folder, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before  # nothing half-made stays


@pytest.mark.parametrize("ending", [".tif", ".tiff"])
def test_the_spacing_of_tiff_stacks_goes_with_them(run, tmp_path, ending):
    """As nnU-Net's Tiff3DIO reads it: NAME.json for NAME_0000.tif and for the label map NAME.tif."""
    folder, dataset, folds = run
    body = json.loads((folder / "dataset.json").read_text())
    for case in body["cases"]:
        for key, paths in (("images", case["images"]), ("label", [case["label"]])):
            stacks = [str(tmp_path / f"{case['name']}_{key}_{number}{ending}") for number in range(len(paths))]
            for path, stack in zip(paths, stacks, strict=True):
                image = sitk.ReadImage(path)
                sitk.WriteImage(image, stack)
                beside = Path(stack).with_suffix(".json")
                beside.write_text(json.dumps({"spacing": image.GetSpacing()[::-1]}))
            case[key] = stacks if key == "images" else stacks[0]
    (folder / "dataset.json").write_text(json.dumps(body))
    raw = export_nnunet(folder, tmp_path / "out", 321)
    expected = read_geometry(Path(dataset.cases[0].images[0])).spacing_mm
    for case in dataset.cases:
        for room in ("imagesTr", "labelsTr"):
            said = json.loads((raw / room / f"{case.name}.json").read_text())
            assert said == {"spacing": pytest.approx(expected)}
    found = Dataset.open(raw)
    assert found.problems == ()
    assert read_geometry(Path(found.cases[0].images[0])).spacing_mm == pytest.approx(expected)
    results = tmp_path / "out/nnUNet_results/Dataset321_boxes/voxfit__nnUNetPlans__3d_fullres"
    assert json.loads((results / "plans.json").read_text())["image_reader_writer"] == "Tiff3DIO"
    name = folds.validation[0][0]
    predicted = results / "fold_0" / "validation" / f"{name}.json"
    assert json.loads(predicted.read_text()) == {"spacing": [1.0, 2.0, 3.0]}

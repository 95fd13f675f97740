"""An export of regions and unannotated voxels, against nnU-Net's description of its raw datasets."""

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from voxfit.imaging.dataset import Dataset
from voxfit.imaging.files import Case
from voxfit.imaging.labels import Label, Labels, Region
from voxfit.interop.nnunet_export import export_nnunet
from voxfit.planning.folds import split
from voxfit.running.reporting import record_dataset

LABELS = Labels(
    classes=tuple(Label(name=f"part {value}", value=value) for value in (2, 5, 9)),
    regions=(Region(name="whole", values=(2, 5, 9), paste=2), Region(name="core", values=(9, 5), paste=9)),
    ignore=20,
)


def test_regions_and_what_nobody_annotated_have_nnunets_values(tmp_path):
    """Classes are numbered without gaps, and what is ignored has the highest number."""
    rng = np.random.default_rng(0)
    cases = []
    for number in range(4):
        name = f"case_{number}"
        image, label = tmp_path / f"{name}.nii.gz", tmp_path / f"{name}_label.nii.gz"
        channels = [sitk.GetImageFromArray(rng.random((4, 5, 6), np.float32)) for _ in range(2)]
        sitk.WriteImage(sitk.JoinSeries(channels), str(image))
        sitk.WriteImage(sitk.GetImageFromArray(rng.choice([0, 2, 5, 9, 20], (4, 5, 6)).astype(np.uint8)), str(label))
        cases.append(Case(name=name, images=(str(image),), label=str(label)))
    run = tmp_path / "run"
    run.mkdir()
    record_dataset(Dataset(tmp_path, "Parts", ("T1", "T2"), LABELS, tuple(cases)), run / "dataset.json")
    folds = split(cases, 2, 0)
    folds.save(run / "folds.json")

    raw = export_nnunet(run, tmp_path / "out", 77)
    said = json.loads((raw / "dataset.json").read_text())
    assert said["labels"] == {"background": 0, "whole": [1, 2, 3], "core": [3, 2], "ignore": 4}
    assert said["regions_class_order"] == [1, 3]
    assert said["channel_names"] == {"0": "T1", "1": "T2"}
    for case in cases:
        exported = sitk.GetArrayFromImage(sitk.ReadImage(str(raw / "labelsTr" / f"{case.name}.nii.gz")))
        original = sitk.GetArrayFromImage(sitk.ReadImage(case.label))
        for value, index in {0: 0, 2: 1, 5: 2, 9: 3, 20: 4}.items():
            assert np.array_equal(exported == index, original == value)
        both = sitk.GetArrayFromImage(sitk.ReadImage(case.images[0]))
        for channel in range(2):
            path = raw / "imagesTr" / f"{case.name}_{channel:04d}.nii.gz"
            assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), both[channel])
    (splits,) = Path(tmp_path, "out").rglob("splits_final.json")
    for number, fold in enumerate(json.loads(splits.read_text())):
        assert fold["val"] == list(folds.validation[number])
        assert sorted(fold["train"] + fold["val"]) == [case.name for case in cases]

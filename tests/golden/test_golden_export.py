"""An exported run: scored from what was exported, it has the Dice that nnU-Net v2 found in it."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from golden.exported import KINDS, labels_of, write_run
from golden.files import Golden
from voxfit.interop.nnunet_export import export_nnunet


@pytest.mark.parametrize("kind", KINDS)
def test_scores(tmp_path, kind):
    folder, dataset, folds = write_run(tmp_path, kind)
    raw = export_nnunet(folder, tmp_path / "out")
    results = tmp_path / "out" / "nnUNet_results" / raw.name / "voxfit__nnUNetPlans__3d_fullres"
    labels = json.loads((raw / "dataset.json").read_text())["labels"]
    ignore = labels.pop("ignore", None)
    structures = [values for name, values in labels.items() if name != "background"]
    found = []
    for fold, names in enumerate(folds.validation):
        predicted = results / f"fold_{fold}" / "validation"
        scores = [
            [
                dice(read(predicted / f"{name}.nii.gz"), read(raw / "labelsTr" / f"{name}.nii.gz"), values, ignore)
                for values in structures
            ]
            for name in names
        ]
        found.append(np.mean(scores, axis=0))
    np.testing.assert_allclose(found, Golden("exported").expected(kind, labels_of(dataset)), rtol=1e-6)


def read(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def dice(found, reference, values, ignore):
    """Of the voxels with one of the values, where there is annotation."""
    annotated = reference != ignore if ignore is not None else np.ones(reference.shape, bool)
    ours, theirs = (np.isin(array, values) & annotated for array in (found, reference))
    return 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum())

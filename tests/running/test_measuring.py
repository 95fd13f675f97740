"""Files are measured as NumPy measures arrays."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from voxfit.core.parallel import LocalExecutor
from voxfit.core.progress import Listener
from voxfit.imaging.dataset import Dataset
from voxfit.running.cases import measure_dataset


def test_ct_statistics_of_many_distinct_values_are_those_of_the_foreground_alone(tmp_path):
    """Resampled images: more values than are counted one by one, so files are read twice. Air is as bright."""
    rng = np.random.default_rng(0)
    inside = []
    for name in ("imagesTr", "labelsTr"):
        (tmp_path / name).mkdir()
    for number in range(3):
        label = np.zeros((30, 40, 40), np.uint8)
        label[3:27, 5:35, 5:35] = 1
        image = np.where(label, rng.normal(40 + 10 * number, 80, label.shape), rng.normal(-20, 120, label.shape))
        image = image.astype(np.float32)
        inside.append(image[label == 1])
        sitk.WriteImage(sitk.GetImageFromArray(image), str(tmp_path / "imagesTr" / f"case_{number}_0000.nii.gz"))
        sitk.WriteImage(sitk.GetImageFromArray(label), str(tmp_path / "labelsTr" / f"case_{number}.nii.gz"))
    (tmp_path / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1}, "file_ending": ".nii.gz"})
    )
    values = np.concatenate(inside).astype(np.float64)
    assert len(np.unique(inside[0])) > 2**14  # or once would be enough
    found = measure_dataset(Dataset.open(tmp_path), Listener(), LocalExecutor(1)).intensities[0]
    low, high = np.percentile(values, (0.5, 99.5))
    assert (found.percentile_00_5, found.percentile_99_5) == (
        pytest.approx(low, abs=1e-4),
        pytest.approx(high, abs=1e-4),
    )
    assert found.mean == pytest.approx(values.mean(), abs=1e-4)
    assert found.standard_deviation == pytest.approx(values.std(), abs=1e-4)
    assert found.voxels == len(values)

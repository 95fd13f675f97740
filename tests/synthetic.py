"""A dataset that is fitted in seconds: bright boxes in small noisy volumes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk


def write_boxes(folder: Path, cases: int = 6, test_cases: int = 2, channels: int = 1) -> Path:
    """An nnU-Net v2 raw dataset of `cases` volumes with one or two labels, values 2 and 5."""
    for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (folder / name).mkdir(parents=True)
    for number in range(cases + test_cases):
        rng = np.random.default_rng(number)
        shape = tuple(int(size) for size in rng.integers(16, 22, 3))
        image = rng.normal(100, 5, size=(channels, *shape)).astype(np.float32)
        label = np.zeros(shape, np.uint8)
        for value, low in ((2, rng.integers(1, 4, 3)), (5, rng.integers(9, 11, 3))):
            inside = tuple(slice(start, start + 5) for start in low)
            label[inside] = value
            image[(slice(None), *inside)] += 30 * value
        where = "Tr" if number < cases else "Ts"
        spacing, origin = (1.2, 1.0, 1.5), (5.0, -3.0, float(number))
        for channel in range(channels):
            _write(folder / f"images{where}" / f"box_{number:02}_{channel:04}.nii.gz", image[channel], spacing, origin)
        _write(folder / f"labels{where}" / f"box_{number:02}.nii.gz", label, spacing, origin)
    body = {
        "channel_names": {str(channel): "MRI" for channel in range(channels)},
        "labels": {"background": 0, "left": 2, "right": 5},
        "file_ending": ".nii.gz",
        "numTraining": cases,
    }
    (folder / "dataset.json").write_text(json.dumps(body))
    return folder


def _write(path: Path, array: np.ndarray, spacing: tuple[float, ...], origin: tuple[float, ...]) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    sitk.WriteImage(image, str(path))

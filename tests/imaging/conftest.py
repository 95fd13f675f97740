"""Tiny dataset folders, written with SimpleITK and the json module only."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

SHAPE = (6, 7, 8)


def save(path: Path, array: np.ndarray[Any, Any], spacing_xyz: tuple[float, ...] | None = None) -> None:
    """Write (z, y, x) voxels, or (y, x) for a picture; the ending decides the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing_xyz or (1.0,) * array.ndim)
    sitk.WriteImage(image, str(path))


@pytest.fixture
def save_volume() -> Callable[..., None]:
    return save


@pytest.fixture
def msd(tmp_path: Path) -> Callable[..., Path]:
    """Builds a Decathlon folder of three cases with the labels 0-2; keywords replace keys of dataset.json."""

    def build(**changes: Any) -> Path:
        folder = tmp_path / "Task99_Tiny"
        random = np.random.default_rng(0)
        names = ["tiny_002", "tiny_000", "tiny_001"]
        for name in names:
            save(folder / "imagesTr" / f"{name}.nii.gz", random.random(SHAPE, np.float32))
            save(folder / "labelsTr" / f"{name}.nii.gz", random.integers(0, 3, SHAPE).astype(np.uint8))
        save(folder / "imagesTs" / "tiny_100.nii.gz", random.random(SHAPE, np.float32))
        description = {
            "name": "Tiny",
            "modality": {"0": "MRI"},
            "labels": {"0": "background", "1": "head", "2": "tail"},
            "training": [
                {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names
            ],
        } | changes
        (folder / "dataset.json").write_text(
            json.dumps({key: value for key, value in description.items() if value is not ...})
        )
        return folder

    return build


@pytest.fixture
def nnunet(tmp_path: Path) -> Callable[..., Path]:
    """Builds an nnU-Net v2 raw folder of three cases with two channels; keywords replace keys of dataset.json."""

    def build(**changes: Any) -> Path:
        folder = tmp_path / "Dataset999_Tiny"
        random = np.random.default_rng(1)
        for name in ("b", "a", "c"):
            for channel in range(2):
                save(folder / "imagesTr" / f"{name}_{channel:04d}.nrrd", random.random(SHAPE, np.float32))
            save(folder / "labelsTr" / f"{name}.nrrd", random.integers(0, 3, SHAPE).astype(np.uint8))
        description = {
            "channel_names": {"0": "T2", "1": "ADC"},
            "labels": {"background": 0, "tail": 2, "head": 1},
            "numTraining": 3,
            "file_ending": ".nrrd",
        } | changes
        (folder / "dataset.json").write_text(
            json.dumps({key: value for key, value in description.items() if value is not ...})
        )
        return folder

    return build

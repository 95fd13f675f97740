"""Hippocampus under nnU-Net's names: its raw dataset, its plans, a trained network, and the same imported."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from benchmarks.peer import Trained, Workspace
from benchmarks.row import Setting

LABELS = {"background": 0, "Anterior": 1, "Posterior": 2}
DATASET = "Dataset004_Hippocampus"
PLANS = "benchPlans"
STEPS = 60


def workspace(setting: Setting) -> Workspace:
    """nnU-Net's folders; the environment of this process names them, so that it can be imported."""
    made = Workspace(setting.work)
    for path in (made.raw, made.preprocessed, made.results):
        path.mkdir(parents=True, exist_ok=True)
    os.environ.update(made.environment)
    return made


def training_files(source: Path, count: int) -> dict[str, tuple[Path, Path]]:
    """Image and label of the first cases.

    Args:
        source: the dataset in the layout of the Medical Segmentation Decathlon.
        count: how many.
    """
    names = [path.name for path in sorted((source / "labelsTr").glob("*.nii.gz"))[:count]]
    return {name.split(".")[0]: (source / "imagesTr" / name, source / "labelsTr" / name) for name in names}


def write_raw(setting: Setting, dataset: str = DATASET, count: int = 20) -> Path:
    """The raw dataset of the first cases."""
    space = workspace(setting)
    source = setting.data / "Task04_Hippocampus"
    space.write_dataset(dataset, "MRI", LABELS, training_files(source, count))
    return space.raw / dataset


def trained(setting: Setting) -> Trained:
    """A network of nnU-Net's own size for Hippocampus in 3D, trained for a minute: enough to see both labels."""
    space = workspace(setting)
    write_raw(setting)
    space.plan(DATASET, "ExperimentPlanner", _small_batch, PLANS)
    result = Trained(space, DATASET, PLANS, "3d_fullres")
    space.train(result, (0,), STEPS)
    return result


def imported(setting: Setting) -> Path:
    """The same network as a model folder of ours."""
    from voxfit.interop.nnunet_model import import_nnunet

    folder = setting.work / "bench" / "model"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        import_nnunet(trained(setting).folder, folder, (0,))
    return folder


def test_images(setting: Setting, count: int) -> Path:
    """A folder of images to predict, under nnU-Net's names."""
    folder = setting.folder(f"images_{count}")
    for path in sorted((setting.data / "Task04_Hippocampus" / "imagesTs").glob("*.nii.gz"))[:count]:
        place = folder / f"{path.name.split('.')[0]}_0000.nii.gz"
        if not place.exists():
            place.symlink_to(path)
    return folder


def _small_batch(plans: dict[str, Any]) -> None:
    """The network is the planned one; a batch of 2 trains it sooner."""
    plans["configurations"]["3d_fullres"]["batch_size"] = 2

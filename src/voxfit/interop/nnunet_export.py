"""A run as nnU-Net v2 would have it: the raw dataset, the split, and the out-of-fold predictions in its naming.

nnU-Net wants the labels 0, 1, 2, ... without gaps and one file for each channel, so label maps are written as class
indices (voxels without annotation get the highest value) and images with several channels in a file are taken apart.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from voxfit.core.errors import UsageError, WorkspaceError
from voxfit.core.layout import Layout
from voxfit.core.new_folder import new_folder, require_new
from voxfit.core.records import write_atomically
from voxfit.imaging.files import Case
from voxfit.imaging.labels import Labels
from voxfit.imaging.pictures import TIFF, write_spacing_beside
from voxfit.imaging.volume import file_ending, read_geometry, read_image, read_label
from voxfit.imaging.writing import to_sitk, write_label
from voxfit.planning.folds import Folds
from voxfit.running.reporting import DatasetRecord

_TRAINER = "voxfit__nnUNetPlans"

_PICTURES = (".png", ".bmp", ".tif", ".tiff")
"""Endings of files of which nnU-Net reads colours from one file."""


def export_nnunet(
    run: Path, output: Path, number: int = 900, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Write `output/nnUNet_raw/DatasetNNN_NAME` and `output/nnUNet_results/DatasetNNN_NAME/...`.

    Args:
        run: a run folder with cross-validated configurations.
        output: a new folder.
        number: of the dataset, 1 to 999.
        progress: called with (done, total) cases.

    Returns:
        the raw dataset's folder.

    Raises:
        WorkspaceError: the run is no run, or its images are no longer where they were.
        UsageError: the output is there already, or the number is none.
    """
    layout = Layout(run)
    if not layout.dataset.exists() or not layout.folds.exists():
        raise WorkspaceError(f"{run}: is no run folder (no dataset.json and folds.json). `voxfit fit` makes one.")
    if not 1 <= number <= 999:
        raise UsageError(f"The dataset number is {number}; nnU-Net's are 1 to 999.")
    require_new(output)
    dataset, folds = DatasetRecord.load(layout.dataset), Folds.load(layout.folds)
    name = f"Dataset{number:03d}_{re.sub(r'[^A-Za-z0-9]+', '', dataset.name) or 'Voxfit'}"
    with new_folder(output) as part:
        _write_all(layout, dataset, folds, part, name, progress)
    return output / "nnUNet_raw" / name


def _write_all(
    layout: Layout,
    dataset: DatasetRecord,
    folds: Folds,
    output: Path,
    name: str,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Write everything.

    Args:
        layout: of the run.
        dataset: the run's.
        folds: the run's.
        output: nnU-Net's three folders come into it.
        name: nnU-Net's, DatasetNNN_NAME.
        progress: called with (done, total) cases.
    """
    raw, ending = output / "nnUNet_raw" / name, _common_ending(dataset.cases)
    for room in ("imagesTr", "labelsTr"):
        (raw / room).mkdir(parents=True)
    for done, case in enumerate(dataset.cases, 1):
        _write_images(case, raw / "imagesTr", ending, len(dataset.channel_names))
        _write_label(Path(case.label or ""), raw / "labelsTr" / f"{case.name}{ending}", dataset.labels)
        if progress:
            progress(done, len(dataset.cases))
    description = _description(dataset, ending)
    _write_json(raw / "dataset.json", description)
    results = output / "nnUNet_results" / name
    # As much of a plan as nnU-Net's evaluation reads.
    plans = {"dataset_name": name, "image_reader_writer": _reader(ending, dataset.cases[0])}
    for candidate in layout.all_scores():
        if "+" in candidate:
            continue
        target = results / f"{_TRAINER}__{_THEIRS.get(candidate, candidate)}"
        _write_predictions(layout.segmentations(candidate), target, folds, dataset.labels, ending)
        _write_json(target / "dataset.json", description)
        _write_json(target / "plans.json", plans)
    splits = [{"train": folds.training(fold), "val": names} for fold, names in enumerate(folds.validation)]
    _write_json(output / "nnUNet_preprocessed" / name / "splits_final.json", splits)


_THEIRS = {"3d": "3d_fullres", "3d_cascade": "3d_cascade_fullres"}


def _description(dataset: DatasetRecord, ending: str) -> dict[str, object]:
    """nnU-Net's dataset.json, with class indices as values."""
    labels: dict[str, object] = {"background": 0}
    for name, members in zip(dataset.labels.names, dataset.labels.members, strict=True):
        labels[name] = list(members) if dataset.labels.regions else members[0]
    if dataset.labels.ignore is not None:
        labels["ignore"] = dataset.labels.count
    description: dict[str, object] = {
        "channel_names": {str(index): name for index, name in enumerate(dataset.channel_names)},
        "labels": labels,
        "numTraining": len(dataset.cases),
        "file_ending": ending,
    }
    if dataset.labels.regions:
        values = dataset.labels.values
        description["regions_class_order"] = [values.index(region.paste) for region in dataset.labels.regions]
    return description


def _common_ending(cases: tuple[Case, ...]) -> str:
    """The ending of all images and labels where they share one; else NIfTI, and where voxels lie in other files."""
    endings = {file_ending(Path(path)) for case in cases for path in (*case.images, case.label or "")}
    return endings.pop() if len(endings) == 1 and ".mhd" not in endings else ".nii.gz"


def _reader(ending: str, case: Case) -> str:
    """The class of nnU-Net that reads the images."""
    if _is_stack(case, ending):
        return "Tiff3DIO"
    return "NaturalImage2DIO" if ending in _PICTURES else "SimpleITKIO"


def _is_stack(case: Case, ending: str) -> bool:
    """Whether the images are 3D TIFF files, whose spacing nnU-Net reads from a file beside them."""
    return ending in TIFF.endings and read_geometry(Path(case.images[0])).dimension == 3


def _write_images(case: Case, folder: Path, ending: str, channels: int) -> None:
    """One file for each channel: copies, or the parts of a file that holds several."""
    missing = [path for path in case.images if not Path(path).exists()]
    if missing:
        raise WorkspaceError(f"{case.name}: {missing[0]} is no longer there. Put the dataset back to its place.")
    if (len(case.images) == channels or ending in _PICTURES) and all(
        file_ending(Path(path)) == ending for path in case.images
    ):
        for channel, path in enumerate(case.images):
            shutil.copyfile(path, folder / f"{case.name}_{channel:04d}{ending}")
        if _is_stack(case, ending):
            write_spacing_beside(folder / f"{case.name}{ending}", read_geometry(Path(case.images[0])).spacing_mm)
        return
    channel = 0
    for path in case.images:
        volume = read_image(Path(path))
        for array in volume.array:
            image = to_sitk(array, volume.geometry)
            sitk.WriteImage(image, str(folder / f"{case.name}_{channel:04d}{ending}"))
            channel += 1


def _write_label(source: Path, target: Path, labels: Labels) -> None:
    volume = read_label(source)
    write_label(target, _indices(volume.array, labels), volume.geometry)


def _indices(array: NDArray[np.generic], labels: Labels) -> NDArray[np.generic]:
    indices, _ = labels.to_indices(array)
    kind = np.uint8 if labels.count < 255 else np.uint16
    return np.where(indices < 0, labels.count, indices).astype(kind)


def _write_predictions(found: dict[str, Path], target: Path, folds: Folds, labels: Labels, ending: str) -> None:
    for fold, names in enumerate(folds.validation):
        for name in [name for name in names if name in found]:
            path = target / f"fold_{fold}" / "validation" / f"{name}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_label(found[name], path, labels)


def _write_json(path: Path, body: object) -> None:
    write_atomically(path, (json.dumps(body, indent=1) + "\n").encode())

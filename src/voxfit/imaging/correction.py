"""A corrected copy of a dataset; the original is only read."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from voxfit.core.errors import UsageError
from voxfit.core.new_folder import new_folder
from voxfit.imaging.dataset import Dataset
from voxfit.imaging.files import Case
from voxfit.imaging.places import ROUNDING_VOXELS, placing_gaps
from voxfit.imaging.verification import TOLERANCE_VOXELS
from voxfit.imaging.volume import read_geometry, read_label
from voxfit.imaging.writing import write_label


def misplaced_label(case: Case) -> float:
    """How far the headers of image and label place them apart for any program, in voxels; 0 where that is harmless.

    Args:
        case: a training case without a fatal problem.
    """
    here, elsewhere = placing_gaps(Path(case.images[0]), Path(case.label or ""))
    return max(here if here > TOLERANCE_VOXELS else 0.0, elsewhere if elsewhere > ROUNDING_VOXELS else 0.0)


def write_corrected(dataset: Dataset, cases: Sequence[Case], folder: Path) -> list[Path]:
    """Copy a dataset; the labels of some cases get their image's header.

    Args:
        dataset: what is copied: its description, and every file of the folder that is not hidden and no link out of it.
        cases: those whose labels are corrected.
        folder: the copy; built beside its place, then renamed.

    Returns:
        the corrected label files in the copy.

    Raises:
        UsageError: the folder is there already, or lies inside of the dataset.
        WorkspaceError: it cannot be written.
    """
    source = dataset.folder.resolve()
    if folder.exists():
        raise UsageError(f"--fix {folder}: is there already. Name a new folder.")
    if folder.resolve().is_relative_to(source):
        raise UsageError(f"--fix {folder}: lies inside of the dataset. Name a folder elsewhere.")
    corrected = [Path(case.label or "").resolve().relative_to(source) for case in cases]
    with new_folder(folder) as part:
        for path in sorted(source.rglob("*")):
            relative = path.relative_to(source)
            hidden = any(name.startswith(".") for name in relative.parts)
            if path.is_file() and not hidden and path.resolve().is_relative_to(source):
                (part / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, part / relative)
        for case, relative in zip(cases, corrected, strict=True):
            label, image = read_label(Path(case.label or "")), Path(case.images[0])
            write_label(part / relative, label.array, read_geometry(image), like=image)
    return [folder / relative for relative in corrected]

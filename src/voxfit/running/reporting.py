"""The report of a run folder, with the images it was fitted to."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from voxfit.assessment.report import write_report
from voxfit.core.errors import WorkspaceError
from voxfit.core.layout import Layout
from voxfit.core.records import Record
from voxfit.imaging.dataset import Dataset
from voxfit.imaging.files import Case
from voxfit.imaging.labels import Labels
from voxfit.planning.fingerprint import SkippedCase
from voxfit.running.run_folder import RunFolder


class DatasetRecord(Record):
    """What a run folder keeps of its dataset (`dataset.json`): where it is, its training cases, those left out.

    `files` is the digest of the training files as the last `fit` found them.
    """

    schema_name: ClassVar[str] = "voxfit.dataset/1"
    folder: str
    name: str
    channel_names: tuple[str, ...]
    labels: Labels
    cases: tuple[Case, ...]
    skipped: tuple[SkippedCase, ...] = ()
    files: str = ""


def record_dataset(dataset: Dataset, path: Path, skipped: tuple[SkippedCase, ...] = (), files: str = "") -> None:
    """Write what a run folder keeps of its dataset, with absolute paths, where that is not there already."""

    def absolute(case: Case) -> Case:
        images = tuple(str(Path(image).resolve()) for image in case.images)
        return case.revised(images=images, label=str(Path(case.label or "").resolve()))

    DatasetRecord(
        folder=str(dataset.folder.resolve()),
        name=dataset.name,
        channel_names=dataset.channel_names,
        labels=dataset.labels,
        cases=tuple(absolute(case) for case in dataset.cases),
        skipped=skipped,
        files=files,
    ).keep(path)


def files_of_dataset(run: Path) -> list[Path]:
    """The images and labels that a run was fitted to; none where the folder does not say."""
    if not Layout(run).dataset.is_file():
        return []
    cases = DatasetRecord.load(Layout(run).dataset).cases
    return [Path(file) for case in cases for file in case.files]


def write_run_report(run: Path) -> Path:
    """Write `report.html` of a finished run; images that are no longer where they were are left out.

    Raises:
        WorkspaceError: the folder is no finished run.
    """
    layout = Layout(run)
    if not layout.dataset.exists() or not layout.selection.exists():
        raise WorkspaceError(f"{run}: is no finished run (it has no selection.json). `voxfit fit` finishes it.")
    cases = DatasetRecord.load(layout.dataset).cases
    write_report(run, layout.report, {case.name: (Path(case.images[0]), Path(case.label or "")) for case in cases})
    return layout.report


def write_report_of(run: RunFolder) -> None:
    """Write the report of a run, where it is older than the model."""
    layout = run.layout
    written = layout.report.stat().st_mtime if layout.report.exists() else 0.0
    if written < (layout.model / "model.json").stat().st_mtime:
        run.listener.stage("Writing the report")
        write_run_report(layout.root)

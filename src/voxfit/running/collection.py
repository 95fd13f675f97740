"""Several datasets, one after another, and one table of all of them (method.md [I6]; Table 2 of the paper)."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, replace
from pathlib import Path

from voxfit.core.errors import VoxfitError
from voxfit.core.progress import Listener
from voxfit.core.records import write_atomically
from voxfit.running.command import check_place, check_request
from voxfit.running.fit import fit
from voxfit.running.request import FitRequest, FitResult
from voxfit.running.run_folder import RunFolder


@dataclass(frozen=True)
class CollectionResult:
    """What came of each dataset.

    Attributes:
        results: by the dataset's folder name.
        failures: datasets that could not be fitted, and why.
        tables: the files written.
    """

    results: dict[str, FitResult]
    failures: dict[str, VoxfitError]
    tables: tuple[Path, ...]


def datasets_in(folder: Path) -> list[Path]:
    """The dataset folders in a folder that is not a dataset itself; empty where it is one, or has none."""
    if (folder / "dataset.json").exists() or not folder.is_dir():
        return []
    return sorted(path.parent for path in folder.glob("*/dataset.json") if (path.parent / "imagesTr").is_dir())


def fit_all(datasets: list[Path], request: FitRequest, listener: Listener) -> CollectionResult:
    """Fit datasets into folders of their own below the run folder; one that fails does not stop the others.

    Args:
        datasets: the folders.
        request: for each of them; a budget is shared equally.
        listener: hears of the progress.

    Raises:
        WorkspaceError: another process writes into the run folder.
        UsageError: no dataset could be fitted as it is asked.
    """
    check_request(request)
    for dataset in datasets:
        check_place(dataset, Path(request.run))
        check_place(dataset, Path(request.run) / dataset.name)
    with RunFolder(Path(request.run)).lock():
        return _fit_all(datasets, request, listener)


def _fit_all(datasets: list[Path], request: FitRequest, listener: Listener) -> CollectionResult:
    root = Path(request.run)
    # Equal shares, not what others left over: the same command must find its own artefacts again.
    share = request.budget_seconds / len(datasets) if request.budget_seconds else None
    results: dict[str, FitResult] = {}
    failures: dict[str, VoxfitError] = {}
    for number, dataset in enumerate(datasets):
        listener.stage(f"Dataset {number + 1} of {len(datasets)}: {dataset.name}")
        try:
            results[dataset.name] = fit(
                replace(request, dataset=dataset, run=root / dataset.name, budget_seconds=share), listener
            )
        except VoxfitError as error:
            failures[dataset.name] = error
            listener.warn(f"{dataset.name}: {error}")
    tables = (root / "table.md", root / "table.csv")
    write_atomically(tables[0], to_markdown(results).encode())
    write_atomically(tables[1], to_csv(results).encode())
    return CollectionResult(results, failures, tables)


Row = tuple[str, list[tuple[float | None, bool]]]
"""A candidate and, for each column, its Dice and whether it was chosen there."""


def table(results: dict[str, FitResult]) -> tuple[list[tuple[str, str]], list[Row]]:
    """The columns (dataset, label) and the rows of Table 2."""
    columns = [(name, label) for name, result in results.items() for label in result.selection.candidates[0].label_dice]
    names: list[str] = []
    for result in results.values():
        names += [candidate.name for candidate in result.selection.candidates if candidate.name not in names]
    names.sort(key=lambda name: (name.count("+"), name))
    rows = []
    for row in names:
        cells: list[tuple[float | None, bool]] = []
        for dataset, label in columns:
            selection = results[dataset].selection
            dice = {candidate.name: candidate.label_dice for candidate in selection.candidates}.get(row, {})
            cells.append((dice.get(label), row == selection.chosen))
        rows.append((row, cells))
    return columns, rows


def to_markdown(results: dict[str, FitResult]) -> str:
    """The table in percent, the chosen model of each dataset in bold."""
    columns, rows = table(results)
    lines = [
        "| mean Dice (%) | " + " | ".join(_cell(f"{dataset}: {label}") for dataset, label in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name, cells in rows:
        shown = ["-" if dice is None else f"{100 * dice:.2f}" for dice, _ in cells]
        marked = [f"**{text}**" if chosen else text for text, (_, chosen) in zip(shown, cells, strict=True)]
        lines.append(f"| {name} | " + " | ".join(marked) + " |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """A text in a table of Markdown, where a bar would end the cell."""
    return text.replace("|", "\\|")


def to_csv(results: dict[str, FitResult]) -> str:
    """One row for each candidate, dataset and label."""
    columns, rows = table(results)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("model", "dataset", "label", "dice", "chosen"))
    for name, cells in rows:
        for (dataset, label), (dice, chosen) in zip(columns, cells, strict=True):
            if dice is not None:
                writer.writerow((name, dataset, label, dice, int(chosen)))
    return stream.getvalue()

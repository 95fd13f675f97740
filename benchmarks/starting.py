"""Rows: how long one waits before anything happens. Ours alone, against fixed times."""

from __future__ import annotations

from pathlib import Path

from benchmarks.hippocampus import test_images
from benchmarks.predicting import cases, ready
from benchmarks.row import BIN, PYTHON, Command, Row, Setting, Target


def help_lines(setting: Setting, output: Path) -> list[list[str]]:
    """What users type first."""
    return [[str(BIN / "voxfit"), "--help"]]


def first_tile_lines(setting: Setting, output: Path) -> list[list[str]]:
    """Prints the seconds."""
    model, images = setting.work / "bench" / "model", test_images(setting, cases(setting))
    return [[PYTHON, "-m", "benchmarks.first_tile", str(model), str(images), str(output)]]


ROWS = (
    Row(
        name="start_help",
        title="voxfit --help",
        ours=(Command("voxfit", help_lines, target=Target(seconds=0.3), precision=lambda device: "-"),),
    ),
    Row(
        name="start_predict",
        title="voxfit predict: from the end of torch's import to the first tile",
        ours=(Command("voxfit", first_tile_lines, target=Target(seconds=2), printed=True),),
        ready=ready,
    ),
)

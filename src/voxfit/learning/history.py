"""What is kept of each epoch of a training: a line of `history.jsonl`."""

from __future__ import annotations

import json
import os
from pathlib import Path

from voxfit.core.progress import EpochReport
from voxfit.core.records import write_atomically


def cut_history(folder: Path, epochs: int) -> None:
    """Keep the lines of so many epochs: what follows is done again."""
    history = folder / "history.jsonl"
    lines = history.read_text().splitlines()[:epochs] if history.exists() else []
    write_atomically(history, "".join(line + "\n" for line in lines).encode())


def record_epoch(folder: Path, report: EpochReport, steps: int) -> None:
    """Append the line of an epoch of so many steps; it is on the disk afterwards. What was not measured is null."""
    line = {
        "epoch": report.epoch,
        "training_loss": round(report.training_loss, 6),
        "validation_loss": round(report.validation_loss, 6),
        "validation_dice": [_rounded(value, 5) for value in report.class_dice],
        "learning_rate": report.learning_rate,
        "steps": steps,
        "seconds": round(report.seconds, 3),
        "wait_share": round(report.wait_share, 4),
        "teraflops": _rounded(report.teraflops, 4),
        "peak_share": _rounded(report.peak_share, 3),
    }
    with (folder / "history.jsonl").open("a") as stream:
        stream.write(json.dumps(line) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)

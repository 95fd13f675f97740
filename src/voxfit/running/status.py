"""What a run folder holds, in lines for people. Reads records only."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from voxfit.assessment.selection import Selection
from voxfit.core.errors import WorkspaceError
from voxfit.planning.plan import Plan
from voxfit.running.locking import read_holder


def describe(run: Path) -> list[str]:
    """The state of a run: plan, folds, choice.

    Raises:
        WorkspaceError: the folder is no run.
    """
    if not (run / "plan.json").exists():
        raise WorkspaceError(f"{run}: is no run folder (it has no plan.json). `voxfit fit DATASET -o {run}` makes one.")
    plan = Plan.load(run / "plan.json")
    lines = [f"{plan.dataset}: {plan.num_cases} cases, plan for {', '.join(plan.configurations)}"]
    lines += [f"  changed: {change}" for change in plan.changes]
    for name in plan.configurations:
        for folder in sorted((run / name).glob("fold_*"), key=lambda path: int(path.name.removeprefix("fold_"))):
            lines.append(f"  {name} {folder.name}: {_fold(folder)}")
        if (run / name / "cross_validation" / "manifest.json").exists():
            lines.append(f"  {name} cross-validated")
    if (run / "selection.json").exists():
        winner = Selection.load(run / "selection.json").winner()
        dice = "no score" if winner.foreground_dice is None else f"foreground Dice {winner.foreground_dice:.4f}"
        lines.append(f"  chosen: {winner.name}, {dice} over {winner.cases} cases; model in {run / 'model'}")
    writer = read_holder(run)
    if writer and writer.may_live():
        lines.append(f"  process {writer.process} on {writer.host} has been writing here since {writer.since}")
    elif not (run / "report.html").exists():
        lines.append("  not finished: run the same `voxfit fit` again to go on")
    return lines


def _last(lines: list[str]) -> dict[str, Any]:
    """The last whole line of a history; a power cut may have left less than one."""
    for line in reversed(lines):
        with suppress(ValueError):
            if isinstance(found := json.loads(line), dict):
                return found
    return {}


def _fold(folder: Path) -> str:
    history = folder / "history.jsonl"
    epochs = history.read_text().splitlines() if history.exists() else []
    last = _last(epochs)
    state = "trained" if (folder / "manifest.json").exists() else "unfinished"
    loss = f", loss {last['training_loss']:.3f}, validation {last['validation_loss']:.3f}" if last else ""
    return f"{state}, {len(epochs)} epochs{loss}"

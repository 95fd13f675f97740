"""What a run folder holds, in lines for people. Reads records only."""

from __future__ import annotations

import json
from pathlib import Path

from voxfit.assessment.selection import Selection
from voxfit.core.errors import WorkspaceError
from voxfit.planning.plan import Plan


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
    else:
        lines.append("  not finished: run the same `voxfit fit` again to go on")
    return lines


def _fold(folder: Path) -> str:
    history = folder / "history.jsonl"
    epochs = history.read_text().splitlines() if history.exists() else []
    last = json.loads(epochs[-1]) if epochs else {}
    state = "trained" if (folder / "manifest.json").exists() else "unfinished"
    loss = f", loss {last['training_loss']:.3f}, validation {last['validation_loss']:.3f}" if last else ""
    return f"{state}, {len(epochs)} epochs{loss}"

"""What a run folder holds of its present plan, in lines for people, and how to go on. Reads records only."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from voxfit.assessment.selection import Selection
from voxfit.core.errors import RecordError, WorkspaceError
from voxfit.inference.description import ModelDescription
from voxfit.planning.fingerprint import Fingerprint
from voxfit.planning.folds import Folds
from voxfit.planning.plan import ConfigurationName, Plan
from voxfit.planning.recipe import Recipe
from voxfit.running.command import FitCommand
from voxfit.running.locking import read_holder
from voxfit.running.present import FoldManifest, Present, candidates_of, model_origin
from voxfit.running.reporting import DatasetRecord


def describe(run: Path) -> list[str]:
    """The state of a run: every fold of every configuration, cross-validations, choice, and what is missing.

    Raises:
        WorkspaceError: the folder is no run.
    """
    if not (run / "plan.json").exists():
        raise WorkspaceError(f"{run}: is no run folder (it has no plan.json). `voxfit fit DATASET -o {run}` makes one.")
    plan = Plan.load(run / "plan.json")
    lines = [f"{plan.dataset}: {plan.num_cases} cases, plan for {', '.join(plan.configurations)}"]
    lines += [f"  changed: {change}" for change in plan.changes]
    found, missing = _artefacts(run, plan)
    lines += [f"  {line}" for line in found]
    writer = read_holder(run)
    if writer and writer.may_live():
        lines.append(f"  process {writer.process} on {writer.host} has been writing here since {writer.since}")
    elif missing:
        lines += [f"  missing: {', '.join(missing)}", f"  to go on: {_command(run)}"]
    return lines


def _artefacts(run: Path, plan: Plan) -> tuple[list[str], list[str]]:
    """A line for everything that a fit makes, and the names of what is missing or does not fit."""
    present = _present(run, plan)
    if present is None:
        return ["nothing is trained"], ["all trainings"]
    command = FitCommand.load(run / "command.json") if (run / "command.json").exists() else None
    wanted = _wanted(plan, command)
    lines, missing = [], []
    for name in plan.configurations:
        folds = _folds_asked(name, wanted, present, command)
        for fold in present.fold_numbers:
            state = _fold(present, name, fold)
            if not present.is_trained(name, fold) and fold in folds:
                missing.append(f"{name} fold {fold}")
            elif not state:
                state = "not asked for"
            lines.append(f"{name} fold {fold}: {state or 'missing'}")
        lines += _validation(present, (name,), missing, wanted=name in wanted)
    for pair in candidates_of(wanted)[len(wanted) :]:
        lines += _validation(present, pair, missing, wanted=True)
    lines += _choice(present, wanted, missing)
    return lines, missing


def _present(run: Path, plan: Plan) -> Present | None:
    """What trainings must be made from; None where none has begun."""
    if not all((run / name).exists() for name in ("recipe.json", "folds.json", "dataset.json", "fingerprint.json")):
        return None
    recipe, folds = Recipe.load(run / "recipe.json"), Folds.load(run / "folds.json")
    files, classes = DatasetRecord.load(run / "dataset.json").files, Fingerprint.load(run / "fingerprint.json").classes
    return Present(run, plan, recipe, folds, files, classes)


def _wanted(plan: Plan, command: FitCommand | None) -> list[ConfigurationName]:
    """The configurations that the last command asked for, with the stages that these need."""
    asked = command.configurations if command and command.configurations else tuple(plan.configurations)
    stages = {plan.configurations[name].previous for name in plan.configurations if name in asked}
    return [name for name in plan.configurations if name in asked or name in stages]


def _folds_asked(
    name: ConfigurationName, wanted: list[ConfigurationName], present: Present, command: FitCommand | None
) -> tuple[int, ...]:
    if name not in wanted:
        return ()
    stages = {present.plan.configurations[other].previous for other in wanted}
    every = command is None or command.folds is None or name in stages
    return tuple(present.fold_numbers) if command is None or every else command.folds or ()


def _fold(present: Present, name: ConfigurationName, fold: int) -> str:
    """What there is of a training; empty for nothing."""
    folder = present.fold_folder(name, fold)
    history = folder / "history.jsonl"
    epochs = history.read_text(encoding="utf-8", errors="replace").splitlines() if history.exists() else []
    last = _last(epochs)
    loss = f", loss {last['training_loss']:.3f}, validation {last['validation_loss']:.3f}" if last else ""
    if not (folder / "manifest.json").exists():
        return f"unfinished, {len(epochs)} epochs{loss}" if folder.is_dir() else ""
    if not present.is_trained(name, fold):
        return "trained with another plan, not used"
    given = FoldManifest.load(folder / "manifest.json").given_seconds
    blind = ", not in the model: no training case has foreground" * (fold not in present.members(name))
    return f"trained, {len(epochs)} epochs{f' in {given:g} s' if given else ''}{loss}{blind}"


def _last(lines: list[str]) -> dict[str, Any]:
    """The last whole line of a history; a power cut may have left less than one."""
    for line in reversed(lines):
        with suppress(ValueError):
            if isinstance(found := json.loads(line), dict):
                return found
    return {}


def _validation(
    present: Present, names: tuple[ConfigurationName, ...], missing: list[str], *, wanted: bool
) -> list[str]:
    """The cross-validation of a configuration or an ensemble."""
    title = "+".join(names)
    if present.shared_folds(names) and present.is_validated(names):
        done, total = len(present.shared_folds(names)), len(present.fold_numbers)
        return [f"{title} cross-validated" if done == total else f"{title} validated on {done} of {total} folds"]
    if wanted:
        missing.append(f"cross-validation of {title}")
    if (present.validation_folder(names) / "manifest.json").exists():
        return [f"{title}: its cross-validation is of another plan or other folds, not used"]
    return []


def _choice(present: Present, wanted: list[ConfigurationName], missing: list[str]) -> list[str]:
    """What was chosen, and whether the model is that."""
    path = present.root / "selection.json"
    if not path.exists():
        missing.append("the choice")
        return []
    selection = Selection.load(path)
    winner = selection.winner()
    dice = "no score" if winner.foreground_dice is None else f"foreground Dice {winner.foreground_dice:.4f}"
    line = f"chosen: {winner.name}, {dice} over {winner.cases} cases"
    if selection.made_from != present.selection_origin(wanted):
        missing.append("the choice")
        return [f"{line}; that was among other trainings, and so is the model in {present.root / 'model'}"]
    if _model_of(present.root) != model_origin(present, winner):
        missing.append("the model")
        return [line]
    if not (present.root / "report.html").exists():
        missing.append("the report")
    return [f"{line}; model in {present.root / 'model'}"]


def _model_of(run: Path) -> str:
    with suppress(RecordError):
        return ModelDescription.load(run / "model" / "model.json").made_from
    return ""


def _command(run: Path) -> str:
    """The command that goes on."""
    if (run / "command.json").exists():
        return FitCommand.load(run / "command.json").words(run)
    dataset = DatasetRecord.load(run / "dataset.json").folder if (run / "dataset.json").exists() else "DATASET"
    return f"voxfit fit {dataset} -o {run}"

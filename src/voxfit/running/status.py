"""What a run folder holds of its present plan, in lines for people, and how to go on. Reads records only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from voxfit.assessment.selection import Selection
from voxfit.core.errors import RecordError, WorkspaceError
from voxfit.core.formatting import format_bytes
from voxfit.core.layout import FoldLayout, Layout
from voxfit.planning.fingerprint import Fingerprint
from voxfit.planning.folds import Folds
from voxfit.planning.plan import ConfigurationName, Plan
from voxfit.planning.settings import Settings
from voxfit.running.artefacts import (
    FoldManifest,
    ValidationManifest,
    ensemble_artefact,
    model_artefact,
    trained_folds,
    training_artefact,
    validation_artefact,
)
from voxfit.running.command import FitCommand
from voxfit.running.experiment import Experiment, Trained, candidates_of, shared
from voxfit.running.locking import read_holder
from voxfit.running.reporting import DatasetRecord
from voxfit.running.run_folder import Artefact


def describe(run: Path) -> list[str]:
    """The state of a run: every fold of every configuration, cross-validations, choice, and what is missing.

    Raises:
        WorkspaceError: the folder is no run.
    """
    layout = Layout(run)
    if not layout.plan.exists():
        raise WorkspaceError(f"{run}: is no run folder (it has no plan.json). `voxfit fit DATASET -o {run}` makes one.")
    experiment = _experiment(layout)
    plan = experiment.plan if experiment else Plan.load(layout.plan)
    lines = [f"{plan.dataset}: {plan.num_cases} cases, plan for {', '.join(plan.configurations)}"]
    lines += [f"  changed: {change}" for change in plan.changes]
    found, missing = _artefacts(layout, experiment) if experiment else (["nothing is trained"], ["all trainings"])
    if experiment and Plan.load(layout.plan).digest() != experiment.settings.planned:
        missing.append("what plan.json was changed to")
    lines += [f"  {line}" for line in found]
    lines += [f"  {line}" for line in _left_behind(layout, experiment)] if experiment else []
    writer = read_holder(run)
    if writer and writer.may_live():
        lines.append(f"  process {writer.process} on {writer.host} has been writing here since {writer.since}")
    elif missing:
        lines += [f"  missing: {', '.join(missing)}", f"  to go on: {_command(layout)}"]
    elif layout.command.exists():
        lines.append(f"  asked for: {_command(layout)}")
    return lines


def _artefacts(layout: Layout, experiment: Experiment) -> tuple[list[str], list[str]]:
    """A line for everything that a fit makes, and the names of what is missing or does not fit."""
    command, plan = FitCommand.load(layout.command) if layout.command.exists() else None, experiment.plan
    wanted = _wanted(plan, command)
    trained = {name: trained_folds(layout, experiment, name) for name in plan.configurations}
    lines, missing = [], []
    for name in plan.configurations:
        folds = _folds_asked(name, wanted, experiment, command)
        for fold in experiment.fold_numbers:
            state = _fold(layout, experiment, name, fold, trained[name])
            if fold not in trained[name] and fold in folds:
                missing.append(f"{name} fold {fold}")
            elif not state:
                state = "not asked for"
            lines.append(f"{name} fold {fold}: {state or 'missing'}")
        artefacts = [validation_artefact(layout, experiment, name, fold) for fold in trained[name]]
        there = any(layout.validation(name, fold).manifest.exists() for fold in experiment.fold_numbers)
        lines += _validation(name, artefacts, experiment, missing, wanted=name in wanted, there=there)
    for pair in candidates_of(wanted)[len(wanted) :]:
        folds = shared(trained, pair)
        artefact = ensemble_artefact(layout, experiment, pair, folds)
        title, there = "+".join(pair), artefact.is_finished()
        lines += _validation(title, [artefact] * len(folds), experiment, missing, wanted=True, there=there)
    lines += _choice(layout, experiment, {name: trained[name] for name in wanted}, missing)
    return lines, missing


def _experiment(layout: Layout) -> Experiment | None:
    """What trainings must be made from; None where none has begun."""
    if not all(path.exists() for path in (layout.training, layout.folds, layout.dataset, layout.fingerprint)):
        return None
    files, classes = DatasetRecord.load(layout.dataset).files, Fingerprint.load(layout.fingerprint).classes
    return Experiment(Settings.load(layout.training), Folds.load(layout.folds), files, classes)


def _wanted(plan: Plan, command: FitCommand | None) -> list[ConfigurationName]:
    """The configurations that the last command asked for, with the stages that these need."""
    asked = command.configurations if command and command.configurations else tuple(plan.configurations)
    stages = {plan.configurations[name].previous for name in plan.configurations if name in asked}
    return [name for name in plan.configurations if name in asked or name in stages]


def _folds_asked(
    name: ConfigurationName, wanted: list[ConfigurationName], experiment: Experiment, command: FitCommand | None
) -> tuple[int, ...]:
    if name not in wanted:
        return ()
    stages = {experiment.plan.configurations[other].previous for other in wanted}
    every = command is None or command.folds is None or name in stages
    return tuple(experiment.fold_numbers) if command is None or every else command.folds or ()


def _fold(layout: Layout, experiment: Experiment, name: ConfigurationName, fold: int, trained: Sequence[int]) -> str:
    """What there is of a training; empty for nothing."""
    artefact, place = training_artefact(layout, experiment, name, fold), layout.fold(name, fold)
    if not artefact.is_finished():
        place = FoldLayout(artefact.part)
    epochs = place.history.read_text(encoding="utf-8", errors="replace").splitlines() if place.history.exists() else []
    last = _last(epochs)
    loss = f", loss {last['training_loss']:.3f}, validation {last['validation_loss']:.3f}" if last else ""
    if not artefact.is_finished():
        return f"unfinished, {len(epochs)} epochs{loss}" if place.root.is_dir() else ""
    if fold not in trained:
        return "trained with other settings, not used"
    given = FoldManifest.load(place.manifest).given_seconds
    blind = ", not in the model: no training case has foreground" * (fold not in experiment.members(trained))
    return f"trained, {len(epochs)} epochs{f' in {given:g} s' if given else ''}{loss}{blind}"


def _left_behind(layout: Layout, experiment: Experiment) -> list[str]:
    """Unfinished trainings that wait for other settings than the present ones."""
    present = {
        training_artefact(layout, experiment, name, fold).part
        for name in experiment.plan.configurations
        for fold in experiment.fold_numbers
    }
    others = sorted({*layout.root.glob("*/fold_*.part-*")} - present)
    if not others:
        return []
    size = format_bytes(sum(file.stat().st_size for path in others for file in path.rglob("*") if file.is_file()))
    names = ", ".join(str(path.relative_to(layout.root)) for path in others)
    return [f"unfinished with other settings ({size}; they go on when those are asked for, or can be deleted): {names}"]


def _last(lines: list[str]) -> dict[str, Any]:
    """The last whole line of a history; a power cut may have left less than one."""
    for line in reversed(lines):
        with suppress(ValueError):
            if isinstance(found := json.loads(line), dict):
                return found
    return {}


def _validation(
    title: str,
    artefacts: Sequence[Artefact[ValidationManifest]],
    experiment: Experiment,
    missing: list[str],
    *,
    wanted: bool,
    there: bool,
) -> list[str]:
    """The cross-validation of a configuration or an ensemble, by all folds that are trained."""
    if artefacts and all(artefact.fits() for artefact in artefacts):
        done, total = len(artefacts), len(experiment.fold_numbers)
        return [f"{title} cross-validated" if done == total else f"{title} validated on {done} of {total} folds"]
    if wanted:
        missing.append(f"cross-validation of {title}")
    if there and not any(artefact.fits() for artefact in artefacts):
        return [f"{title}: its cross-validation is of other trainings or other folds, not used"]
    return []


def _choice(layout: Layout, experiment: Experiment, trained: Trained, missing: list[str]) -> list[str]:
    """What was chosen, and whether the model is that."""
    if not layout.selection.exists():
        missing.append("the choice")
        return []
    selection = Selection.load(layout.selection)
    winner = selection.winner()
    dice = "no score" if winner.foreground_dice is None else f"foreground Dice {winner.foreground_dice:.4f}"
    line = f"chosen: {winner.name}, {dice} over {winner.cases} cases"
    if selection.inputs_digest != experiment.selection_digest(trained):
        missing.append("the choice")
        return [f"{line}; that was among other trainings, and so is the model in {layout.model}"]
    with suppress(RecordError):
        if model_artefact(layout, experiment, selection, trained).fits():
            missing += ["the report"] * (not layout.report.exists())
            return [f"{line}; model in {layout.model}"]
    missing.append("the model")
    return [line]


def _command(layout: Layout) -> str:
    """The command that goes on."""
    if layout.command.exists():
        return FitCommand.load(layout.command).words(layout.root)
    dataset = DatasetRecord.load(layout.dataset).folder if layout.dataset.exists() else "DATASET"
    return f"voxfit fit {dataset} -o {layout.root}"

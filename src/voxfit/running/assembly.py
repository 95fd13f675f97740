"""Putting the self-contained model folder together."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from voxfit.assessment.scores import Scores
from voxfit.assessment.selection import Selection
from voxfit.core.errors import RecordError
from voxfit.core.records import checksum_of
from voxfit.core.version import VERSION
from voxfit.inference.caveats import TrainingRanges, percentiles, ranges_of
from voxfit.inference.description import Fast, Member, ModelDescription
from voxfit.planning.plan import ConfigurationName
from voxfit.running.present import model_origin

if TYPE_CHECKING:
    from voxfit.running.pipeline import Run

_MOST_MEASURED = 200
"""Training cases whose intensities say what an image should look like."""


def assemble(run: Run, selection: Selection) -> Path:
    """The self-contained folder of the chosen model."""
    plan, _ = run.settings
    winner, folder = selection.winner(), run.root / "model"
    names = [name for name in run.configurations if name in winner.configurations]
    origin = model_origin(run.present, winner)
    if (folder / "model.json").exists():
        try:
            found = ModelDescription.load(folder / "model.json")
            files = [file for member in (*found.members, *found.stages) for file in member.weights]
            if found.made_from == origin and all((folder / file).is_file() for file in files):
                return folder
        except RecordError:
            run.listener.warn(f"{folder}: model.json is damaged; the model is put together again.")
    stages = {plan.configurations[name].previous for name in names}
    with run.workspace.building(folder, origin) as part:
        (part / "weights").mkdir(exist_ok=True)
        ModelDescription(
            name=winner.name,
            plan=plan,
            members=tuple(_member(run, name, part) for name in names),
            stages=tuple(_member(run, name, part) for name in run.configurations if name in stages),
            cross_validated_dice=winner.foreground_dice,
            fast=_fast(run, names),
            made_from=origin,
            made_by=f"voxfit {VERSION}",
            trained_on=_training_ranges(run, names[0]),
        ).save(part / "model.json")
    return folder


def _training_ranges(run: Run, name: ConfigurationName) -> TrainingRanges:
    """What the training images are like; intensities from some of them, for that many say it as well as all."""
    plan, _ = run.settings
    store, cases = run.store(plan.grid(name)), [case.name for case in run.dataset.cases]
    some = cases[:: -(-len(cases) // _MOST_MEASURED)]
    grids = [(case.uncropped_shape, case.spacing_mm) for case in run.fingerprint.cases]
    return ranges_of(grids, [percentiles(store.image(case)) for case in some])


def _fast(run: Run, names: Sequence[ConfigurationName]) -> Fast | None:
    """The member that is best without mirroring."""
    measured = [
        Fast(configuration=name, cross_validated_dice=dice)
        for name in names
        if (dice := Scores.load(run.root / name / "cross_validation" / "plain.json").mean.foreground_dice) is not None
    ]
    return max(measured, key=lambda item: item.cross_validated_dice, default=None)


def _member(run: Run, name: ConfigurationName, folder: Path) -> Member:
    """Copy the weights of a configuration."""
    folds = run.present.members(name)
    files = [f"weights/{name}_fold_{fold}.safetensors" for fold in folds]
    for file, fold in zip(files, folds, strict=True):
        shutil.copyfile(run.present.fold_folder(name, fold) / "weights.safetensors", folder / file)
    checksums = tuple(checksum_of(folder / file) for file in files)
    return Member(configuration=name, weights=tuple(files), checksums=checksums)

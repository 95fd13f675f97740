"""Putting the self-contained model folder together."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from voxfit.assessment.selection import Selection
from voxfit.core.extensions import package_of
from voxfit.core.records import checksum_of
from voxfit.core.version import VERSION
from voxfit.imaging.dataset import Dataset
from voxfit.inference.caveats import TrainingRanges, percentiles, ranges_of
from voxfit.inference.model_json import Fast, Member, ModelDescription
from voxfit.planning.architecture import UNET
from voxfit.planning.fingerprint import Fingerprint
from voxfit.planning.plan import ConfigurationName
from voxfit.preprocessing.store import Store
from voxfit.running.artefacts import model_artefact, weights_files
from voxfit.running.experiment import Experiment, Trained
from voxfit.running.run_folder import RunFolder
from voxfit.running.validation import OutOfFold

_MOST_MEASURED = 200
"""Training cases whose intensities say what an image should look like."""


def save_model(
    run: RunFolder,
    experiment: Experiment,
    selection: Selection,
    trained: Trained,
    out_of_fold: Mapping[ConfigurationName, OutOfFold],
    stores: Mapping[ConfigurationName, Store],
    dataset: Dataset,
    fingerprint: Fingerprint,
) -> Path:
    """The self-contained folder of the chosen model.

    Args:
        run: keeps it.
        experiment: plan and digests.
        selection: the choice.
        trained: the folds of each configuration.
        out_of_fold: their scores.
        stores: the prepared cases, whose intensities say what images should look like.
        dataset, fingerprint: sizes of the training images.
    """
    plan, winner = experiment.plan, selection.winner()
    names = [name for name in plan.configurations if name in winner.configurations]
    stages = {plan.configurations[name].previous for name in names}

    def fill(folder: Path) -> ModelDescription:
        (folder / "weights").mkdir(exist_ok=True)

        def member(name: ConfigurationName) -> Member:
            files, folds = weights_files(experiment, name, trained), experiment.members(trained[name])
            for file, fold in zip(files, folds, strict=True):
                shutil.copyfile(run.layout.fold(name, fold).weights, folder / file)
            return Member(
                configuration=name, weights=files, checksums=tuple(checksum_of(folder / file) for file in files)
            )

        return ModelDescription(
            name=winner.name,
            plan=plan,
            members=tuple(member(name) for name in names),
            stages=tuple(member(name) for name in plan.configurations if name in stages),
            cross_validated_dice=winner.foreground_dice,
            fast=_fast(out_of_fold, names),
            made_by=f"voxfit {VERSION}",
            trained_on=_training_ranges(stores[names[0]], dataset, fingerprint),
            network_from="" if plan.network == UNET else package_of("network", plan.network),
        )

    run.obtain(model_artefact(run.layout, experiment, selection, trained), fill)
    return run.layout.model


def _training_ranges(store: Store, dataset: Dataset, fingerprint: Fingerprint) -> TrainingRanges:
    """What the training images are like; intensities from some of them, for that many say it as well as all."""
    cases = [case.name for case in dataset.cases]
    some = cases[:: -(-len(cases) // _MOST_MEASURED)]
    grids = [(case.uncropped_shape, case.spacing_mm) for case in fingerprint.cases]
    return ranges_of(grids, [percentiles(store.image(case)) for case in some])


def _fast(out_of_fold: Mapping[ConfigurationName, OutOfFold], names: Sequence[ConfigurationName]) -> Fast | None:
    """The member that is best without mirroring."""
    measured = [
        Fast(configuration=name, cross_validated_dice=dice)
        for name in names
        if (dice := out_of_fold[name].scores_without_tta.mean.foreground_dice) is not None
    ]
    return max(measured, key=lambda item: item.cross_validated_dice, default=None)

"""A results folder of nnU-Net v2 becomes one of our model folders.

`nnUNetv2_train` leaves, for each configuration, `DatasetXXX_Name/Trainer__Plans__configuration/` with `plans.json`,
`dataset.json` and `fold_N/checkpoint_final.pth`. The model predicts without nnU-Net, and without pickle.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch

from voxfit.core.errors import ModelError, RecordError
from voxfit.core.new_folder import new_folder, require_new
from voxfit.core.records import checksum_of, digest_of, read_json, write_atomically
from voxfit.core.version import VERSION
from voxfit.inference.caveats import TrainingRanges, ranges_of
from voxfit.inference.model_json import Member, ModelDescription
from voxfit.interop.nnunet_checkpoint import Checkpoint, read_checkpoint
from voxfit.interop.nnunet_network import translate_weights
from voxfit.interop.nnunet_plans import ImportedConfiguration, combine, read_part
from voxfit.planning.plan import ConfigurationName, Plan

_CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
"""In order of preference: as in nnU-Net, the last weights rather than the best."""


@dataclass(frozen=True)
class _Results:
    """One results folder.

    Attributes:
        folder: where it is.
        checkpoints: the file of each fold, by nnU-Net's name of the fold.
        part: its configuration.
        trainer: the class that trained it.
    """

    folder: Path
    checkpoints: dict[str, Path]
    part: ImportedConfiguration
    trainer: str


def import_nnunet(folder: Path, output: Path, folds: tuple[int, ...] | None = None) -> Path:
    """Make a model folder of a results folder of nnU-Net v2; a cascade takes its first stage from the folder beside.

    Args:
        folder: `DatasetXXX_Name/Trainer__Plans__configuration`.
        output: the model folder; it must not exist.
        folds: which to take; None for all that have a checkpoint (`fold_all` only where there is no other).

    Returns:
        `output`.

    Raises:
        ModelError: the model is missing, damaged, unsafe to read, or needs what voxfit does not have.
        UsageError: the output is there already.
        WorkspaceError: the output cannot be written.
    """
    require_new(output)
    source = _open(folder, folds)
    sources: dict[ConfigurationName, _Results] = {source.part.name: source}
    plan = source.part.plan
    if source.part.previous:
        low = _open(_beside(folder, source.part.previous), folds)
        sources = {"3d_lowres": low, "3d_cascade": source}
        plan = combine(folder, low.part, source.part)
    with new_folder(output) as part:
        (part / "weights").mkdir()
        members = [_write_weights(item, plan, name, part) for name, item in sources.items()]
        files = [part / file for member in members for file in member.weights]
        ModelDescription(
            name=source.part.name,
            plan=plan,
            members=tuple(members[-1:]),
            stages=tuple(members[:-1]),
            cross_validated_dice=None,
            inputs_digest=digest_of([plan.digest(), [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]]),
            made_by=f"voxfit {VERSION} from {folder.resolve().name} of nnU-Net v2 ({source.trainer})",
            trained_on=_training_ranges(folder),
        ).save(part / "model.json")
    return output


def _training_ranges(folder: Path) -> TrainingRanges | None:
    """From the fingerprint that nnU-Net puts beside its plans; None where there is none that can be read."""
    with suppress(RecordError, KeyError, TypeError, ValueError):
        facts = read_json(folder / "dataset_fingerprint.json")
        return ranges_of(list(zip(facts["shapes_after_crop"], facts["spacings"], strict=True)))
    return None


def _open(folder: Path, folds: tuple[int, ...] | None) -> _Results:
    """Find the checkpoints of a results folder, and read its description."""
    if not (folder / "plans.json").is_file():
        found = sorted(path.parent.name for path in folder.glob("*/plans.json"))
        hint = f"Name one of the folders in it: {', '.join(found)}." if found else "Name Dataset.../Trainer__Plans__..."
        raise ModelError(f"{folder}: is no results folder of nnU-Net v2 (no plans.json). {hint}")
    checkpoints = _checkpoints(folder, folds)
    first = read_checkpoint(next(iter(checkpoints.values())))
    part = read_part(folder, first.configuration, first.mirror_axes)
    return _Results(folder, checkpoints, part, first.trainer)


def _checkpoints(folder: Path, folds: tuple[int, ...] | None) -> dict[str, Path]:
    """The checkpoint of each fold."""
    found = {
        path.name.removeprefix("fold_"): next((path / name for name in _CHECKPOINTS if (path / name).is_file()), None)
        for path in folder.glob("fold_*")
    }
    there = {fold: path for fold, path in found.items() if path is not None}
    numbers = {int(fold): path for fold, path in there.items() if fold.isdecimal()}
    if folds is None:
        chosen = {str(fold): numbers[fold] for fold in sorted(numbers)} or {
            fold: path for fold, path in there.items() if fold == "all"
        }
        if not chosen:
            raise ModelError(f"{folder}: no fold has a {_CHECKPOINTS[0]}. Finish a training of nnU-Net first.")
        return chosen
    missing = [fold for fold in folds if fold not in numbers]
    if missing or not folds:
        raise ModelError(
            f"{folder}: there is no checkpoint of the folds {list(missing)}, but of {sorted(there) or 'none'}. "
            "Choose of these."
        )
    return {str(fold): numbers[fold] for fold in sorted(set(folds))}


def _beside(folder: Path, configuration: str) -> Path:
    """The results folder of a cascade's first stage."""
    path = folder.resolve()
    low = path.parent / f"{path.name.rpartition('__')[0]}__{configuration}"
    if not low.is_dir():
        raise ModelError(f"{folder}: is a cascade and needs its first stage in {low}. Put this folder there too.")
    return low


def _write_weights(source: _Results, plan: Plan, name: ConfigurationName, folder: Path) -> Member:
    """Write a file for each fold."""
    files = []
    for fold, path in source.checkpoints.items():
        checkpoint = read_checkpoint(path)
        _check_fold(source, checkpoint, path)
        try:
            weights = translate_weights(checkpoint.weights, plan.topology(name), source.part.axes)
        except ValueError as error:
            raise ModelError(
                f"{path}: its weights are not those of the network in plans.json ({error}). Trainers that change the "
                f"network cannot be imported; this one was trained by {checkpoint.trainer}."
            ) from None
        files.append(f"weights/{name}_fold_{fold}.safetensors")
        write_atomically(folder / files[-1], safetensors.torch.save(weights))
    checksums = tuple(checksum_of(folder / file) for file in files)
    return Member(configuration=name, weights=tuple(files), checksums=checksums)


def _check_fold(source: _Results, checkpoint: Checkpoint, path: Path) -> None:
    """Folds are averaged, so they must be of one kind."""
    part = read_part(source.folder, checkpoint.configuration, checkpoint.mirror_axes)
    if part != source.part:
        raise ModelError(
            f"{path}: it is of {checkpoint.configuration}, mirrored along {list(checkpoint.mirror_axes)}, unlike the "
            "fold before. Choose folds of one kind with --folds."
        )

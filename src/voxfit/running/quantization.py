"""Making the INT8 form of a model: ranges from training patches, and the Dice that it costs on validation cases."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from voxfit.assessment.scores import CaseScores, MeanScores, score_case, summarize
from voxfit.core.errors import DatasetError, Problem, UsageError
from voxfit.core.layout import Layout
from voxfit.core.processor import processor_name
from voxfit.core.progress import Listener
from voxfit.core.records import digest_of
from voxfit.core.version import VERSION
from voxfit.imaging.dataset import Dataset
from voxfit.imaging.files import Case
from voxfit.imaging.verification import LabelledVolume, read_labelled
from voxfit.imaging.volume import Volume
from voxfit.inference.backends import BackendOptions, require_int8
from voxfit.inference.int8_json import FILE, DiceLoss, Quantization, QuantizedNetwork, Range, checksum
from voxfit.inference.model import Model
from voxfit.inference.model_json import Member, ModelDescription, model_folder
from voxfit.inference.rounding import observe_ranges
from voxfit.inference.torch_networks import load_network
from voxfit.learning.sampling import VALIDATION, PatchSampler, Previous
from voxfit.networks.unet import UNet
from voxfit.planning.folds import Folds
from voxfit.planning.plan import ConfigurationName, Plan
from voxfit.planning.recipes import Recipe
from voxfit.planning.settings import Settings
from voxfit.preprocessing.case import prepare
from voxfit.preprocessing.store import Store, write_case, write_manifest
from voxfit.running.reporting import DatasetRecord

_MOST_CASES = 32
"""Training cases that calibration patches are drawn from."""

Ranges = dict[str, dict[str, Range]]
"""Of the tensors of each network, by its weights file."""


@dataclass(frozen=True)
class _Task:
    """What is calibrated and measured.

    Attributes:
        folder: of the model.
        description: of the model.
        cases: with labels.
        folds: the split, where the model is a run's; else every network is calibrated and measured on all cases.
        recipe: how patches are drawn.
        tiles: for each network, about.
    """

    folder: Path
    description: ModelDescription
    cases: tuple[Case, ...]
    folds: Folds | None
    recipe: Recipe
    tiles: int

    @property
    def plan(self) -> Plan:
        return self.description.plan


def quantize(
    path: Path, dataset: Path | None = None, listener: Listener | None = None, *, tiles: int = 128
) -> Quantization:
    """Make the INT8 form of a model, `int8.json` in its folder, and measure what it costs.

    A run's networks are calibrated on patches of their fold's training cases and measured on its validation cases. A
    model without a run (imported, or moved) is calibrated and measured on all cases of `dataset`.

    Args:
        path: a run folder, or a model folder.
        dataset: with labels; None for a run's own.
        listener: hears of the progress.
        tiles: calibration patches for each network.

    Raises:
        UsageError: OpenVINO is not installed, or there is no dataset.
        ModelError: there is no usable model.
        DatasetError: a case is unusable, or has other labels than the model.
    """
    listener = listener or Listener()
    task = _find(path, dataset, tiles)
    require_int8("voxfit quantize", None, "cpu", task.plan.network)
    members = (*task.description.stages, *task.description.members)
    listener.stage("Observing the ranges of tensors")
    files = [(member.configuration, file) for member in members for file in member.weights]
    ranges: Ranges = {}
    for name, file in files:
        ranges[file] = _calibrate(task, name, file)
        listener.progress(len(ranges), len(files))
    listener.stage("Segmenting validation cases in float32 and INT8")
    made = Quantization(
        networks=tuple(
            QuantizedNetwork(weights=file, checksum=checksum(task.folder / file), ranges=ranges[file])
            for _, file in files
        ),
        dice=_measure(task, ranges, listener),
        tiles=tiles,
        made_by=f"voxfit {VERSION}",
        measured_with=(f"openvino {importlib.metadata.version('openvino')}", processor_name()),
    )
    made.save(task.folder / FILE)
    return made


def _find(path: Path, dataset: Path | None, tiles: int) -> _Task:
    folder, description = model_folder(path)
    layout = Layout(folder.parent)
    is_run = folder == layout.model and layout.folds.is_file() and layout.dataset.is_file()
    recipe = Settings.load(layout.training).recipe if is_run and layout.training.is_file() else Recipe()
    if dataset is not None:
        found = Dataset.open(dataset)
        cases, labels, known = found.cases, found.labels, description.plan.labels
        if labels != known:
            what = f"the labels are {', '.join(labels.names)}, but the model has {', '.join(known.names)}."
            raise DatasetError(Problem(str(dataset), what, "Name a dataset with the labels of the model."))
    elif is_run:
        cases = DatasetRecord.load(layout.dataset).cases
    else:
        raise UsageError(f"{path}: is no run, so name labelled cases too: voxfit quantize {path} DATASET")
    folds = Folds.load(layout.folds) if is_run else None
    if folds and not {name for names in folds.validation for name in names} <= {case.name for case in cases}:
        folds = None  # another dataset: none of its cases was trained on
    return _Task(folder, description, cases, folds, recipe, tiles)


def _fold_of(file: str) -> int:
    """The number of the fold that made a weights file of a run's model."""
    found = re.search(r"_fold_(\d+)\.", file)
    return int(found[1]) if found else 0


def _calibrate(task: _Task, name: ConfigurationName, file: str) -> dict[str, Range]:
    """The ranges of one network, on patches as training draws them, without augmentation."""
    plan = task.plan
    names = task.folds.training(_fold_of(file)) if task.folds else tuple(case.name for case in task.cases)
    rng = np.random.default_rng(int(digest_of([file, task.recipe.seed]), 16))
    chosen = set(rng.permutation(sorted(names))[:_MOST_CASES].tolist())
    network = load_network(plan, name, task.folder / file).eval()
    with TemporaryDirectory(prefix="voxfit-") as folder:
        store = _prepare(task, name, [case for case in task.cases if case.name in chosen], Path(folder))
        configuration = plan.configurations[name]

        def segmentation(case: str) -> NDArray[np.int16]:
            label: NDArray[np.int16] = np.maximum(store.label(case).astype(np.int16), 0)
            return label

        sampler = PatchSampler(
            store,
            sorted(chosen),
            configuration,
            task.recipe,
            labels=plan.labels,
            channels=len(plan.channel_names),
            seed=task.recipe.seed,
            # What the stage before says resembles the label, and its channels hold zeros and ones anyway.
            previous=Previous(segmentation, plan.labels.count - 1) if configuration.previous else None,
        )
        return observe_ranges(cast("UNet", network), _patches(sampler, task.tiles))  # `require_int8` has looked


def _patches(sampler: PatchSampler, tiles: int) -> Iterator[torch.Tensor]:
    """At least `tiles` patches, one at a time, so that the memory is that of one."""
    for step in range(-(-tiles // sampler.configuration.batch_size)):
        images, _ = sampler.finish(sampler.batch(VALIDATION, 0, step), torch.device("cpu"))
        yield from images.split(1)


def _prepare(task: _Task, name: ConfigurationName, cases: Sequence[Case], folder: Path) -> Store:
    """Cases prepared for a configuration."""
    for case in cases:
        volume = _read(task, case)
        prepared = prepare(Volume(volume.image, volume.geometry), task.plan.grid(name), volume.label)
        write_case(folder, case.name, prepared, task.plan.labels.count)
    write_manifest(folder, [case.name for case in cases], "")
    return Store(folder)


def _read(task: _Task, case: Case) -> LabelledVolume:
    volume, problems = read_labelled(case, len(task.plan.channel_names), task.plan.labels)
    if volume is None:
        raise DatasetError([problem for problem in problems if problem.fatal])
    return volume


def _measure(task: _Task, ranges: Ranges, listener: Listener) -> DiceLoss:
    """Segment the cases both ways, exactly as prediction does it, and compare both with the labels."""
    parts = list(_parts(task))
    total, plain, rounded = sum(len(cases) for _, cases in parts), [], []
    for description, cases in parts:
        float32 = Model(task.folder, description, "cpu", execution=BackendOptions(None))
        int8 = Model(task.folder, description, "cpu", execution=BackendOptions(None, ranges))
        for case in cases:
            reference = _read(task, case)
            volume = Volume(reference.image, reference.geometry)
            plain.append(_score(task.plan, case.name, float32, volume, reference))
            rounded.append(_score(task.plan, case.name, int8, volume, reference))
            listener.progress(len(plain), total)
    before, after = _means(plain, task.plan), _means(rounded, task.plan)
    return DiceLoss(
        cases=total,
        out_of_fold=task.folds is not None,
        float32=before.foreground_dice,
        int8=after.foreground_dice,
        float32_labels={name: mean.dice for name, mean in before.labels.items()},
        int8_labels={name: mean.dice for name, mean in after.labels.items()},
    )


def _parts(task: _Task) -> Iterator[tuple[ModelDescription, list[Case]]]:
    """The model of each fold and the cases that it has not seen; or the whole model and all cases."""
    description = task.description
    if task.folds is None:
        yield description, list(task.cases)
        return
    for fold in sorted({_fold_of(file) for member in description.members for file in member.weights}):

        def only(members: Sequence[Member], fold: int = fold) -> tuple[Member, ...]:
            return tuple(member.only([file for file in member.weights if _fold_of(file) == fold]) for member in members)

        unseen = set(task.folds.validation[fold])
        one = description.revised(members=only(description.members), stages=only(description.stages))
        yield one, [case for case in task.cases if case.name in unseen]


def _score(plan: Plan, name: str, model: Model, volume: Volume, reference: LabelledVolume) -> CaseScores:
    indices, _ = plan.labels.to_indices(model.predict_volume(volume))
    return score_case(name, reference.label, indices, reference.geometry.spacing_mm, plan.labels, surface=False)


def _means(cases: Sequence[CaseScores], plan: Plan) -> MeanScores:
    return summarize(cases, plan.labels).mean

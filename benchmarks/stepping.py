"""Rows: training steps with their data, in the loop of either trainer, on the same plans and cases."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.hippocampus import DATASET, training_files, workspace, write_raw
from benchmarks.measuring import fresh
from benchmarks.outputs import numbers
from benchmarks.peer import Trained, Workspace
from benchmarks.row import Kernel, Row, Setting, Target

PEER = "nnU-Net v2"
COMPILED = "nnU-Net v2, compiled by hand"


@dataclass(frozen=True)
class Subject:
    """What is trained.

    Attributes:
        dataset, configuration: nnU-Net's names.
        batch: its size.
        patch: its size; None for the planned one.
        steps: of one measurement, on a CPU and on a GPU.
    """

    dataset: str
    configuration: str
    batch: int
    patch: tuple[int, ...] | None
    steps: dict[str, int]

    def plans(self, setting: Setting) -> str:
        """nnU-Net's name of them."""
        return f"{'quick' if setting.quick else 'step'}{self.configuration}Plans"

    def count(self, setting: Setting) -> int:
        """Steps of one measurement."""
        return 2 if setting.quick else self.steps[setting.device]

    def edit(self, setting: Setting, plans: dict[str, Any]) -> None:
        """Batch and patch as wanted."""
        found = plans["configurations"][self.configuration]
        found["batch_size"] = 2 if setting.quick else self.batch
        found["patch_size"] = list(self.patch or found["patch_size"])


def planned(subject: Subject, setting: Setting) -> Trained:
    """nnU-Net's raw dataset, plans and prepared cases."""
    space = workspace(setting)
    _write_raw(subject, space, setting)
    space.plan(subject.dataset, "ExperimentPlanner", partial(subject.edit, setting), subject.plans(setting))
    result = Trained(space, subject.dataset, subject.plans(setting), subject.configuration)
    space.preprocess(result)
    return result


def ready(subject: Subject, setting: Setting) -> None:
    """What both train on: nnU-Net's prepared cases, and our store of the same files."""
    from voxfit.core.parallel import LocalExecutor
    from voxfit.core.progress import Listener
    from voxfit.imaging.dataset import Dataset
    from voxfit.running.cases import Destination, fill_stores

    found = planned(subject, setting)
    part = read_plans(subject, found)
    folder = _store(subject, setting)
    if not (folder / "manifest.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        dataset = Dataset.open(found.workspace.raw / subject.dataset)
        (manifest,) = fill_stores(
            dataset, [Destination(part.plan.grid(part.name), folder, "")], Listener(), LocalExecutor(1)
        )
        manifest.save(folder / "manifest.json")


def read_plans(subject: Subject, found: Trained) -> Any:
    """nnU-Net's plans as ours."""
    from voxfit.interop.nnunet_plans import read_part

    source = found.workspace.preprocessed / subject.dataset
    folder = source / f"plans_{found.plans}"  # under the names of a results folder
    folder.mkdir(exist_ok=True)
    shutil.copyfile(source / f"{found.plans}.json", folder / "plans.json")
    shutil.copyfile(source / "dataset.json", folder / "dataset.json")
    return read_part(folder, subject.configuration, range(2 if subject.configuration == "2d" else 3))


class _Enough(Exception):
    """Ends a training after an epoch; the next call goes on from its checkpoint."""


def our_steps(subject: Subject, setting: Setting) -> Callable[[], Any]:
    """Epochs of `learning.training`, each some steps and a batch of validation."""
    from voxfit.core.progress import EpochReport, Listener
    from voxfit.learning.task import TrainingTask
    from voxfit.learning.training import Training
    from voxfit.planning.recipes import recipe_named
    from voxfit.preprocessing.store import Store

    class Hearing(Listener):
        """Keeps the report of the epoch."""

        def epoch(self, report: EpochReport) -> None:
            reports.append(report)
            raise _Enough

    reports: list[EpochReport] = []
    part = read_plans(subject, planned(subject, setting))
    store = Store(_store(subject, setting))
    names = tuple(sorted(store.manifest.voxels))
    settings = {"steps_per_epoch": subject.count(setting), "validation_steps": 1}
    task = TrainingTask(
        name=subject.configuration,
        labels=part.plan.labels,
        topology=part.plan.topology(part.name),
        configuration=part.plan.configurations[part.name],
        recipe=recipe_named("nnunet-v2").model_copy(update=settings),
        training_cases=names,
        validation_cases=names[:1],
        seed=0,
    )
    folder = fresh(setting.folder(f"training_{subject.dataset}_{subject.configuration}"))
    execution, ways = best_execution(task, setting)
    training = Training(task, store, folder, setting.device, Hearing(), execution=execution)
    parameters = sum(item.numel() for item in training.network.parameters())

    def run() -> dict[str, Any]:
        with suppress(_Enough):
            training.run()
        return {
            "seconds": reports[-1].seconds,
            "parameters": parameters,
            "batch": task.configuration.batch_size,
            "patch": list(task.configuration.patch_size),
            "steps": task.recipe.steps_per_epoch,
            "loss": reports[-1].training_loss,
            "waiting": reports[-1].wait_share,
            "teraflops": reports[-1].teraflops,
            "peak_share": reports[-1].peak_share,
            "execution": training.engine.execution.words,
            "ways": ways,
        }

    return run


def best_execution(task: Any, setting: Setting) -> tuple[Any, str]:
    """On a GPU, the way of executing steps that a training of a day finds: the peer compiles there, too.

    Elsewhere None: a training of the recipe's length finds its own.
    """
    from voxfit.learning.engine import choose_execution
    from voxfit.learning.task import measure_step
    from voxfit.planning.recipes import PolynomialDecay

    if setting.device != "cuda":
        return None, ""
    long = task.recipe.model_copy(update={"schedule": PolynomialDecay(learning_rate=1e-2, seconds=86400.0)})
    chosen, words = choose_execution(long, lambda way: measure_step(task, setting.device, way), print)
    return chosen, words


def their_steps(compiled: bool, subject: Subject, setting: Setting) -> Callable[[], Any]:
    """The loop of nnUNetTrainer: next batch, `train_step`, and a batch of validation at the end.

    On a CPU it does not compile its network, whatever it is asked for; `compiled` does it in its place.
    """
    import numpy as np
    import torch

    found = planned(subject, setting)
    _set_up_peer(setting)
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    space = found.workspace
    plans = json.loads((space.preprocessed / subject.dataset / f"{found.plans}.json").read_text())
    description = json.loads((space.raw / subject.dataset / "dataset.json").read_text())
    shutil.rmtree(found.folder, ignore_errors=True)
    trainer = nnUNetTrainer(
        plans | {"continue_training": False}, subject.configuration, 0, description, torch.device(setting.device)
    )
    trainer.initialize()
    if compiled:
        trainer.network = torch.compile(trainer.network)
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    network = getattr(trainer.network, "_orig_mod", trainer.network)
    parameters = sum(item.numel() for item in network.parameters())
    if compiled:
        trainer.train_step(next(trainer.dataloader_train))  # fails before anything is timed, if it fails

    def run() -> dict[str, Any]:
        waited, losses, begun = 0.0, [], perf_counter()
        trainer.network.train()
        for _ in range(subject.count(setting)):
            asked = perf_counter()
            batch = next(trainer.dataloader_train)
            waited += perf_counter() - asked
            losses.append(float(trainer.train_step(batch)["loss"]))
        with torch.no_grad():
            trainer.network.eval()
            trainer.validation_step(next(trainer.dataloader_val))
        if setting.device == "cuda":
            torch.cuda.synchronize()
        seconds = perf_counter() - begun
        return {
            "seconds": seconds,
            "parameters": parameters,
            "batch": len(batch["data"]),
            "patch": list(batch["data"].shape[2:]),
            "steps": len(losses),
            "loss": float(np.mean(losses)),
            "waiting": waited / seconds,
            "execution": "compiled" if hasattr(trainer.network, "_orig_mod") else "plain",
        }

    return run


def _set_up_peer(setting: Setting) -> None:
    """What nnUNetv2_train does before it trains on a device, and its defaults there."""
    import torch

    if setting.device != "cuda":
        os.environ.update(nnUNet_n_proc_DA="0")  # its worker processes would only take turns with the network
        return
    os.environ.update(nnUNet_n_proc_DA=str(min(12, len(os.sched_getaffinity(0)))), nnUNet_compile="true")
    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = True


def check(setting: Setting, folder: Path) -> str:
    """The same network, batch, patch and number of steps; how both were executed, and in how far loaders kept up."""
    ours = numbers(folder, "voxfit")
    peers = [numbers(folder, name) for name in (PEER, COMPILED) if (folder / name / "output.json").exists()]
    for theirs in peers:
        for key in ("batch", "patch", "steps"):
            assert ours[key] == theirs[key], f"{key}: {ours[key]} and {theirs[key]}"
        # Its coarsest head is there without a loss, and its convolutions have a bias that the norm subtracts again.
        separate_axis = abs(ours["parameters"] / theirs["parameters"] - 1)
        assert separate_axis < 0.01, f"parameters: {ours['parameters']} and {theirs['parameters']}"
    sides = [ours, *peers]
    waiting = "; ".join(f"{100 * side['waiting']:.2g} %" for side in sides)
    return (
        f"batch {ours['batch']}, {ours['steps']} steps, {ours['parameters']} / {peers[0]['parameters']} parameters; "
        f"executed {'; '.join(side['execution'] for side in sides)}; waiting for data {waiting}"
    )


def _store(subject: Subject, setting: Setting) -> Path:
    return setting.work / "bench" / f"store_{subject.dataset}_{subject.configuration}"


def _write_raw(subject: Subject, space: Workspace, setting: Setting) -> None:
    if subject.dataset == DATASET:
        write_raw(setting)
        return
    source = setting.data / "Task01_BrainTumour6"
    labels = {"background": 0, "necrosis": 1, "edema": 2, "non_enhancing": 3, "enhancing": 4}
    _write_channels(space.raw / subject.dataset, training_files(source, 6), labels)


def _write_channels(folder: Path, cases: dict[str, tuple[Path, Path]], labels: dict[str, int]) -> None:
    """The raw dataset of images with several channels: a file for each."""
    import SimpleITK as sitk

    if (folder / "dataset.json").exists():
        return
    for room in ("imagesTr", "labelsTr"):
        (folder / room).mkdir(parents=True, exist_ok=True)
    for case, (image, label) in cases.items():
        whole = sitk.ReadImage(str(image))
        for channel in range(whole.GetSize()[3]):
            part = whole[:, :, :, channel]
            sitk.WriteImage(part, str(folder / "imagesTr" / f"{case}_{channel:04}.nii.gz"))
        shutil.copyfile(label, folder / "labelsTr" / f"{case}.nii.gz")
    names = {str(channel): f"MRI{channel}" for channel in range(whole.GetSize()[3])}
    described = {"channel_names": names, "labels": labels, "numTraining": len(cases), "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(described))


def precision(device: str) -> str:
    """Of both."""
    return "float32" if device == "cpu" else "autocast to float16"


def not_apart(setting: Setting) -> str | None:
    """Why the compiled peer is no side of its own."""
    return "nnU-Net compiles by itself" if setting.device == "cuda" else None


def _row(name: str, title: str, subject: Subject, target: Target, devices: tuple[str, ...]) -> Row:
    return Row(
        name=name,
        title=title,
        ours=(Kernel("voxfit", partial(our_steps, subject), target, precision=precision),),
        theirs=(
            Kernel(PEER, partial(their_steps, False, subject), precision=precision),
            Kernel(
                COMPILED, partial(their_steps, True, subject), missing=not_apart, precision=precision, may_fail=True
            ),
        ),
        check=check,
        ready=partial(ready, subject),
        whole=True,
        devices=devices,
    )


BOTH = ("cpu", "cuda")
ROWS = (
    _row(
        "train3d",
        "training steps with their data, Hippocampus 3D, 40x56x40, batch 9, deep supervision",
        Subject(DATASET, "3d_fullres", 9, None, {"cpu": 4, "cuda": 250}),
        Target(speed=1.1),
        BOTH,
    ),
    _row(
        "train2d",
        "training steps with their data, Hippocampus 2D, 56x40, batch 90, deep supervision",
        Subject(DATASET, "2d", 90, None, {"cpu": 6, "cuda": 250}),
        Target(speed=1.1),
        BOTH,
    ),
    _row(
        "train128",
        "training steps with their data, brain tumours 3D, 4 channels, 128x128x128, batch 2, deep supervision",
        Subject("Dataset001_BrainTumour6", "3d_fullres", 2, (128, 128, 128), {"cpu": 1, "cuda": 40}),
        Target(speed=1.1),
        ("cuda",),
    ),
)

"""Imported models and nnU-Net v2 itself say the same of real images, where it is installed.

nnU-Net trains each network for some steps, so that it segments more than noise; both then predict the same 20 images.
The table goes to `build/agreement.md`, for `docs/nnunet.md`. What is trained stays in the folder that the environment
variable VOXFIT_ORACLES names, if there is one.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from agreement import Row, compare, write_table
from numpy.typing import NDArray

from benchmarks.hippocampus import LABELS, training_files
from benchmarks.peer import Trained, Workspace, commands, measure, predict, single_precision
from voxfit.imaging.files import images_in
from voxfit.imaging.volume import read_label
from voxfit.inference.model import Model
from voxfit.interop.nnunet_model import import_nnunet

# Its own warnings, while it is imported too, are not ours.
pytestmark = pytest.mark.filterwarnings("ignore")
pytest.importorskip("nnunetv2", exc_type=ImportError)

CASES = 20
TABLE = Path(__file__).parents[2] / "build" / "agreement.md"

REGIONS = {"background": 0, "whole": [1, 2], "posterior": [2]}
IGNORED = LABELS | {"ignore": 3}
CARDIAC = {"background": 0, "label1": 1, "label2": 2, "label3": 3}

Read = Callable[[Path], tuple[sitk.Image, sitk.Image]]


@dataclass(frozen=True)
class Subject:
    """What is trained and compared.

    Attributes:
        title: for the table.
        dataset: nnU-Net's name of it.
        write: makes the raw dataset and the images to predict.
        edit: changes the plans.
        labels: values of foreground.
        configurations: one stage after the other.
        planner: nnU-Net's class.
        plans: nnU-Net's name of them.
        steps: of training.
    """

    title: str
    dataset: str
    write: Callable[[Workspace, str], None]
    edit: Callable[[dict[str, Any]], None]
    labels: tuple[int, ...] = (1, 2)
    configurations: tuple[str, ...] = ("3d_fullres",)
    planner: str = "ExperimentPlanner"
    plans: str = "nnUNetPlans"
    steps: int = 150

    def stages(self, workspace: Workspace) -> list[Trained]:
        """Trained; at once where that was done before."""
        self.write(workspace, self.dataset)
        workspace.plan(self.dataset, self.planner, self.edit, self.plans)
        stages = [Trained(workspace, self.dataset, self.plans, name) for name in self.configurations]
        for number, stage in enumerate(stages):
            if number:
                workspace.hand_over(stages[number - 1], stage)
            workspace.train(stage, (0, 1), self.steps)
        return stages

    def images(self, workspace: Workspace) -> Path:
        return workspace.root / "images" / self.dataset


def write_hippocampus(
    workspace: Workspace,
    dataset: str,
    *,
    labels: dict[str, Any] = LABELS,
    order: list[int] | None = None,
    change: Callable[[sitk.Image], sitk.Image] | None = None,
    hide: bool = False,
) -> None:
    source = shared("Task04_Hippocampus")
    cases = training_files(source, CASES)
    images = sorted((source / "imagesTs").glob("*.nii.gz"))[:CASES]
    if change or hide:
        target = workspace.root / "changed" / dataset
        target.mkdir(parents=True, exist_ok=True)
        turn = change or (lambda image: image)
        for number, (case, (image, label)) in enumerate(cases.items()):
            cases[case] = (target / f"{case}.nii.gz", target / f"{case}_label.nii.gz")
            found = turn(sitk.ReadImage(str(label)))
            write(cases[case][0], turn(sitk.ReadImage(str(image))))
            write(cases[case][1], hidden(found, number) if hide else found)
        images = [write(target / path.name, turn(sitk.ReadImage(str(path)))) for path in images]
    workspace.write_dataset(dataset, "MRI", labels, cases, order)
    link(workspace, dataset, {path.name.split(".")[0]: path for path in images})


def write_cardiac(workspace: Workspace, dataset: str) -> None:
    source = shared("Dataset027_Cardiac")
    names = [path.name.split(".")[0] for path in sorted((source / "labelsTr").glob("*.nii.gz"))]
    cases = {
        name: (source / "imagesTr" / f"{name}_0000.nii.gz", source / "labelsTr" / f"{name}.nii.gz")
        for name in names[::3]
    }
    images = sorted((source / "imagesTs").glob("*.nii.gz"))
    images += [source / "imagesTr" / f"{name}_0000.nii.gz" for name in names[1::3]]
    workspace.write_dataset(dataset, "MRI", CARDIAC, cases)
    link(workspace, dataset, {path.name.split("_0000")[0]: path for path in images[:CASES]})


def shared(name: str) -> Path:
    folder = Path(__file__).parents[2].parent / "shared" / "data" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return folder


def link(workspace: Workspace, dataset: str, images: dict[str, Path]) -> None:
    """The images to predict, under nnU-Net's names."""
    folder = workspace.root / "images" / dataset
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in images.items():
        place = folder / f"{name}_0000.nii.gz"
        if not place.exists():
            place.symlink_to(path)


def write(path: Path, image: sitk.Image) -> Path:
    sitk.WriteImage(image, str(path))
    return path


def hidden(label: sitk.Image, seed: int) -> sitk.Image:
    """A fifth of the slices, along z, becomes the value that is ignored."""
    array = sitk.GetArrayFromImage(label)
    array[np.random.default_rng(seed).permutation(len(array))[: round(len(array) / 5)]] = IGNORED["ignore"]
    result = sitk.GetImageFromArray(array)
    result.CopyInformation(label)
    return result


def thinned(image: sitk.Image) -> sitk.Image:
    """Every fourth sagittal slice."""
    return image[::4, :, :]


def narrowed(plans: dict[str, Any], width: int = 8, batch: int | None = 2, **changes: Any) -> None:
    """Fewer feature maps, so that two cores can train it; and other entries."""
    for configuration in plans["configurations"].values():
        layers = configuration["architecture"]["arch_kwargs"]
        layers["features_per_stage"] = [min(width << level, 10 * width) for level in range(layers["n_stages"])]
        configuration["batch_size"] = batch or configuration["batch_size"]
    plans["configurations"]["3d_fullres"].update(changes)


def edit_cardiac(plans: dict[str, Any]) -> None:
    """Coarser, with several tiles for an image; and the cascade, which nnU-Net plans for larger images only."""
    narrowed(plans, spacing=[10.0, 2.5, 2.5], patch_size=[14, 64, 64])
    configurations = plans["configurations"]
    full = configurations["3d_fullres"]
    low = {"data_identifier": "nnUNetPlans_3d_lowres", "spacing": [10.0, 5.0, 5.0]}
    configurations["3d_lowres"] = full | low | {"next_stage": "3d_cascade_fullres"}
    configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}


def as_planned(_plans: dict[str, Any]) -> None:
    pass


RESENC = {"planner": "nnUNetPlannerResEncM", "plans": "nnUNetResEncUNetMPlans"}
COARSER = {"spacing": [1.3, 1.3, 1.3], "patch_size": [24, 32, 24]}
SUBJECTS = {
    "3d": Subject("Hippocampus, 3D", "Dataset004_Hippocampus", write_hippocampus, as_planned, steps=50),
    "regions": Subject(
        "Hippocampus, 3D, regions (8)",
        "Dataset104_Regions",
        partial(write_hippocampus, labels=REGIONS, order=[1, 2]),
        narrowed,
    ),
    "ignored": Subject(
        "Hippocampus, 3D, ignored slices (8)",
        "Dataset204_Ignored",
        partial(write_hippocampus, labels=IGNORED, hide=True),
        narrowed,
    ),
    "2d": Subject(
        "Hippocampus, 2D (16)",
        "Dataset004_Hippocampus",
        write_hippocampus,
        partial(narrowed, width=16, batch=None),
        configurations=("2d",),
        plans="narrowPlans",
        steps=60,
    ),
    "cardiac": Subject(
        "Cardiac at 10 x 2.5 x 2.5 mm, 3D (8)", "Dataset027_Cardiac", write_cardiac, edit_cardiac, (1, 2, 3)
    ),
    "resenc": Subject(
        "Hippocampus at 1.3 mm, 3D, ResidualEncoder M (8)",
        "Dataset004_Hippocampus",
        write_hippocampus,
        partial(narrowed, **COARSER),
        **RESENC,  # type: ignore[arg-type]
    ),
    "cascade": Subject(
        "Cardiac, 5 to 2.5 mm, 3D cascade (8)",
        "Dataset027_Cardiac",
        write_cardiac,
        edit_cardiac,
        (1, 2, 3),
        ("3d_lowres", "3d_cascade_fullres"),
        steps=500,  # its small labels need them
    ),
    "turned": Subject(
        "Hippocampus, sagittal slices of 4 mm, 3D (8)",
        "Dataset304_Sagittal",
        partial(write_hippocampus, change=thinned),
        partial(narrowed, spacing=[4.0, 1.2, 1.2]),
    ),
}
ALL = [((0, 1), True), ((0, 1), False), ((0,), True), ((0,), False)]
PLAN: list[tuple[str, tuple[int, ...], bool, str]] = [
    *(("3d", *way, "fp16") for way in ALL),
    ("3d", (0,), True, "fp32"),
    ("3d", (0,), False, "fp32"),
    *((name, *way, "fp16") for name in ("regions", "ignored") for way in (ALL[0], ALL[3])),
    *(("2d", *way, "fp16") for way in ALL),
    ("2d", (0, 1), False, "fp32"),
    *(("cardiac", *way, "fp16") for way in ALL),
    ("cardiac", (0, 1), False, "fp32"),
    *(("resenc", *way, "fp16") for way in ALL),
    ("resenc", (0, 1), False, "fp32"),
    *(("cascade", *way, "fp16") for way in ALL),
    ("cascade", (0, 1), False, "fp32"),
    ("cascade", (0,), False, "fp32"),
    *(("turned", *way, "fp16") for way in (ALL[0], ALL[3])),
    ("turned", (0, 1), False, "fp32"),
]


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    named = os.environ.get("VOXFIT_ORACLES")
    made = Workspace(Path(named).resolve() if named else tmp_path_factory.mktemp("oracles"))
    for path in (made.raw, made.preprocessed, made.results):
        path.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as context:
        for name, value in made.environment.items():
            context.setenv(name, value)
        yield made
    write_table(made.root / "rows", TABLE)


@pytest.mark.parametrize(
    ("name", "folds", "mirror", "sums"),
    PLAN,
    ids=[f"{name}-{len(folds)}folds-{'mirrored' if mirror else 'plain'}-{sums}" for name, folds, mirror, sums in PLAN],
)
def test_same_voxels(workspace: Workspace, name: str, folds: tuple[int, ...], mirror: bool, sums: str) -> None:
    subject = SUBJECTS[name]
    stages = subject.stages(workspace)
    here = workspace.root / "predicted" / name
    model = import_nnunet(stages[-1].folder, fresh(here / f"model_{len(folds)}"), None if len(folds) == 2 else folds)
    images = subject.images(workspace)
    ours = theirs = None
    if (folds, mirror) == ALL[0]:  # what users do is what is timed
        lines, folders = commands(stages, images, here / "theirs", folds, mirror=mirror)
        theirs = measure(lines, workspace.environment)
        output = fresh(here / "ours")
        voxfit = str(Path(sys.executable).parent / "voxfit")
        ours = measure([[voxfit, "predict", str(model), str(images), "-o", str(output), "--device", "cpu"]], {})
        pairs = written(output, folders[-1])
    else:
        if sums == "fp32":
            with single_precision():
                folders = predict(stages, images, here / "theirs", folds, mirror=mirror)
        else:
            folders = predict(stages, images, here / "theirs", folds, mirror=mirror)
        # With equal sums, nothing else shall differ: OpenVINO would round otherwise.
        backend: Any = "torch" if sums == "fp32" else "auto"
        pairs = predicted(Model.open(model, "cpu", mirror=mirror, backend=backend), images, folders[-1])
    found = compare(pairs, subject.labels)
    Row(PLAN.index((name, folds, mirror, sums)), subject.title, len(folds), mirror, sums, found, ours, theirs).save(
        workspace.root / "rows"
    )
    assert found.cases == CASES
    found.check(subject.labels, most=0 if sums == "fp32" else found.voxels // 1000)


def fresh(folder: Path) -> Path:
    """A path at which nothing is."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder


def predicted(model: Model, images: Path, theirs: Path) -> Iterator[tuple[NDArray[np.generic], NDArray[np.generic]]]:
    for case in images_in(images):
        yield model.predict_case(case)[0], read_label(theirs / f"{case.name}.nii.gz").array


def written(ours: Path, theirs: Path) -> Iterator[tuple[NDArray[np.generic], NDArray[np.generic]]]:
    """From files; their grids are the same too."""
    for path in sorted(ours.glob("*.nii.gz")):
        images = [sitk.ReadImage(str(folder / path.name)) for folder in (ours, theirs)]
        grids = [np.concatenate([image.GetSpacing(), image.GetOrigin(), image.GetDirection()]) for image in images]
        np.testing.assert_allclose(*grids, atol=1e-5)
        yield sitk.GetArrayFromImage(images[0]), sitk.GetArrayFromImage(images[1])

"""What a case costs does not depend on how many there are: ten times the cases take ten times as long, not a hundred.

Times are those of the processor, the best of several, and are compared with each other. Where something can be counted
(files opened, bytes written), it is.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import voxfit
from builders.records import configuration_of
from builders.records import task_of as small_task_of
from builders.steps import begin
from voxfit.assessment.report import write_report
from voxfit.assessment.scores import CaseScores, LabelScores, Scores, summarize
from voxfit.core.parallel import LocalExecutor
from voxfit.core.progress import Listener
from voxfit.core.records import MOST_JSON_BYTES
from voxfit.imaging.dataset import Dataset
from voxfit.imaging.files import Case
from voxfit.imaging.geometry import Box, Geometry
from voxfit.imaging.labels import Label, Labels
from voxfit.imaging.outliers import CaseFacts, ChannelFacts
from voxfit.imaging.verification import CaseSummary, verify_folds, verify_together
from voxfit.learning.engine import PLAIN
from voxfit.learning.sampling import TRAINING, PatchSampler
from voxfit.learning.task import TrainingTask
from voxfit.learning.training import Training
from voxfit.planning.fingerprint import CaseFingerprint, Fingerprint
from voxfit.planning.folds import Folds, split
from voxfit.planning.plan import PAPER, Limits
from voxfit.planning.planners import plan_by, plan_origin
from voxfit.planning.planners.nnunet_v2_networks import PRESETS
from voxfit.planning.recipes import PolynomialDecay, Recipe
from voxfit.preprocessing.case import PreparedCase, PreprocessingGeometry
from voxfit.preprocessing.store import Store, write_case, write_manifest
from voxfit.running.cases import measure_dataset
from voxfit.running.outputs import open_outputs
from voxfit.running.prediction import find_cases
from voxfit.running.space import needed_bytes

LABELS = Labels(classes=(Label(name="organ", value=1), Label(name="lesion", value=2)))
FEW, MANY = 1_000, 10_000
LINEAR = 4 * MANY / FEW
"""Ten times the cases may take forty times as long, for a processor's cache holds few but not many; a quadratic step
takes a hundred times."""
PAIRS_SECONDS = MANY**2 * 1e-9
"""A step for each pair of cases takes longer, for no step of Python takes a nanosecond only."""

Work = Callable[[], object]


def best_seconds(work: Work, repeats: int = 3) -> float:
    """Of the processor, without the collection of garbage, whose cost depends on what other tests left."""
    times = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(repeats):
            begun = time.process_time()
            work()
            times.append(time.process_time() - begun)
    finally:
        gc.enable()
    return min(times)


def most_memory(work: Work) -> int:
    """Bytes that are allocated at once."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def calls_of(work: Work) -> int:
    """Functions that are called, those written in C aside."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


opened: list[str] = []
"""Files, while `files_opened` listens."""
_listening = False


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if _listening and event == "open":
        opened.append(str(arguments[0]))


sys.addaudithook(_hear)


@contextmanager
def files_opened() -> Iterator[list[str]]:
    """The paths that this process opens, in all threads."""
    global _listening  # noqa: PLW0603 - an audit hook cannot be taken away again
    opened.clear()
    _listening = True
    try:
        yield opened
    finally:
        _listening = False


# -- what is done with all cases at once ------------------------------------------------------------------------------


def names(count: int) -> list[str]:
    return [f"case_{number:05d}" for number in range(count)]


@lru_cache
def cases(count: int) -> tuple[Case, ...]:
    return tuple(
        Case(name=name, images=(f"{name}_0000.nii.gz",), label=f"{name}.nii.gz", group=f"patient {number // 2}")
        for number, name in enumerate(names(count))
    )


@lru_cache
def dataset(count: int) -> Dataset:
    half = count // 2
    splits = ((tuple(names(count)[:half]), tuple(names(count)[half:])),)
    return Dataset(Path(), "synthetic", ("MRI",), LABELS, cases(count), splits=splits)


@lru_cache
def fingerprint(count: int) -> Fingerprint:
    rng = np.random.default_rng(0)
    shapes, spacings = rng.integers(100, 512, (count, 3)).tolist(), rng.uniform(0.5, 3.0, (count, 3)).tolist()
    return Fingerprint(
        dataset="synthetic",
        channel_names=("MRI",),
        labels=LABELS,
        cases=tuple(
            CaseFingerprint(shape=tuple(shape), uncropped_shape=(512, 512, 512), spacing_mm=tuple(spacing))
            for shape, spacing in zip(shapes, spacings, strict=True)
        ),
        intensities=(None,),
    )


@lru_cache
def scores(count: int) -> Scores:
    rng = np.random.default_rng(0)

    def of_label(dice: float) -> LabelScores:
        return LabelScores(
            dice=dice,
            hausdorff_95_mm=10 * dice,
            surface_dice=dice,
            reference_voxels=int(1e5 * dice),
            predicted_voxels=50_000,
            reference_ml=100 * dice,
            predicted_ml=50.0,
        )

    found = [
        CaseScores(name=name, labels={label: of_label(float(rng.random())) for label in LABELS.names})
        for name in names(count)
    ]
    return summarize(found, LABELS, warnings=[f"{name}: its header is 0.5 voxels off." for name in names(count)])


def saved_and_loaded(record: voxfit.core.records.Record, folder: Path) -> object:
    path = folder / f"{type(record).__name__}.json"
    record.save(path, durable=False)  # how long a disk takes is not what is asked here
    return type(record).load(path)


def needed(count: int) -> Work:
    plan = plan_by(PAPER, fingerprint(count))
    return partial(needed_bytes, fingerprint(count), plan, dict.fromkeys(plan.configurations, 5))


def verified(count: int) -> Work:
    facts = CaseFacts((32, 32, 32), (1.0, 1.0, 1.0), (ChannelFacts(3.0, 100.0, 10.0),))
    summaries = [
        CaseSummary(case, 3, f"digest {number}", frozenset((1, 2)), facts) for number, case in enumerate(cases(count))
    ]
    return lambda: (verify_together(summaries, LABELS, ["CT"], [True]), verify_folds(dataset(count), 5))


WORKS: dict[str, Callable[[int, Path], Work]] = {
    **{f"plan {name}": lambda n, _, name=name: partial(plan_by, name, fingerprint(n)) for name in (PAPER, *PRESETS)},
    "the origin of a plan": lambda n, _: partial(plan_origin, PAPER, fingerprint(n), Limits()),
    "room on the disk": lambda n, _: needed(n),
    "folds": lambda n, _: partial(split, cases(n), 5, 0),
    "the training cases of a fold": lambda n, _: partial(split(cases(n), 5, 0).training, 0),
    "a fingerprint's file": lambda n, folder: partial(saved_and_loaded, fingerprint(n), folder),
    "the folds' file": lambda n, folder: partial(saved_and_loaded, split(cases(n), 5, 0), folder),
    "the scores' file": lambda n, folder: partial(saved_and_loaded, scores(n // 5), folder),
    "cases compared with each other": lambda n, _: verified(n),
    "cases left out": lambda n, _: partial(dataset(n).without, set(names(n)[::2])),
    "a map over cases": lambda n, _: lambda: list(LocalExecutor(1).map(len, names(n))),
}


@pytest.mark.parametrize("name", WORKS)
def test_ten_times_the_cases_take_ten_times_as_long_and_as_much_memory(name: str, tmp_path: Path) -> None:
    few, many = WORKS[name](FEW, tmp_path), WORKS[name](MANY, tmp_path)
    # A busy machine disturbs one comparison; what is quadratic fails all of them.
    assert any(
        (taken := best_seconds(many, 2)) < PAIRS_SECONDS / 2 or taken < LINEAR * best_seconds(few, 4) for _ in "123"
    )
    few, many = WORKS[name](FEW // 4, tmp_path), WORKS[name](MANY // 4, tmp_path)  # memory is measured slowly
    assert most_memory(many) < 2 * MANY / FEW * most_memory(few)


def test_the_split_of_ten_thousand_cases_is_whole() -> None:
    folds = split(cases(MANY), 5, 0)
    assert sorted(name for fold in folds.validation for name in fold) == names(MANY)
    assert isinstance(folds, Folds)


# -- datasets and images, by their listings ---------------------------------------------------------------------------

FEW_FILES, MANY_FILES = 300, 3_000


@pytest.fixture(scope="module")
def listings(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folders of empty image files: nothing here reads them."""
    folders = {}
    for count in (FEW_FILES, MANY_FILES):
        folders[count] = folder = tmp_path_factory.mktemp("listing")
        for room in ("imagesTr", "labelsTr", "imagesTs"):
            (folder / room).mkdir()
        for name in names(count):
            (folder / "imagesTr" / f"{name}_0000.nii.gz").touch()
            (folder / "imagesTs" / f"{name}_0000.nii.gz").touch()
            (folder / "labelsTr" / f"{name}.nii.gz").touch()
        folds = np.array_split(names(count), 5)
        body = [
            {"train": [str(name) for part in folds for name in part if part is not fold], "val": fold.tolist()}
            for fold in folds
        ]
        (folder / "splits_final.json").write_text(json.dumps(body))
    return folders


LAYOUTS: dict[str, Callable[[str], dict[str, object]]] = {
    "nnU-Net v1 lists names without the channel": lambda name: {
        "image": f"./imagesTr/{name}.nii.gz",
        "label": f"./labelsTr/{name}.nii.gz",
    },
    "the Decathlon lists files": lambda name: {
        "image": f"imagesTr/{name}_0000.nii.gz",
        "label": f"labelsTr/{name}.nii.gz",
    },
}


@pytest.mark.parametrize("layout", [*LAYOUTS, "folders", "names"])
def test_a_dataset_of_many_cases_is_described(listings: dict[int, Path], layout: str) -> None:
    def opening(count: int) -> Work:
        body: dict[str, object] = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "organ": 1}}
        if layout in LAYOUTS:
            body["training"] = [LAYOUTS[layout](name) for name in names(count)]
        if layout == "names":
            files = {name: (f"imagesTr/{name}_0000.nii.gz", f"labelsTr/{name}.nii.gz") for name in names(count)}
            body["dataset"] = {name: {"images": [image], "label": label} for name, (image, label) in files.items()}
        (listings[count] / "dataset.json").write_text(json.dumps(body))
        return lambda: Dataset.open(listings[count], r"case_(\d+)")

    times = {count: best_seconds(opening(count), 2) for count in listings}
    assert times[MANY_FILES] < LINEAR * times[FEW_FILES]
    found = Dataset.open(listings[MANY_FILES])
    assert len(found.cases) == len(found.test_cases) == MANY_FILES
    assert len(found.splits) == 5
    assert all(len(case.images) == 1 for case in found.cases)
    unsuited = layout == "the Decathlon lists files"  # there a case has the name of its image file, which no split has
    assert unsuited or not found.problems


@pytest.mark.parametrize("given", ["a folder", "files"])
def test_many_images_to_predict_are_found(listings: dict[int, Path], given: str) -> None:
    def finding(count: int) -> Work:
        folder = listings[count] / "imagesTs"
        return partial(find_cases, [folder] if given == "a folder" else sorted(folder.iterdir()), 1)

    assert best_seconds(finding(MANY_FILES)) < LINEAR * best_seconds(finding(FEW_FILES), 5)
    assert [case.name for case in find_cases([listings[MANY_FILES] / "imagesTs"], 1)] == names(MANY_FILES)


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux counts what a process writes")
def test_a_label_map_is_noted_in_as_many_bytes_whether_few_or_many_are_there(tmp_path: Path) -> None:
    def written() -> int:
        return int(Path("/proc/self/io").read_text().split("wchar:")[1].split()[0])

    file = tmp_path / "label.nii.gz"
    file.write_bytes(b"label")
    line = json.dumps({"file": "old.nii.gz", "inputs_digest": "x", "label": "x"}) + "\n"
    sizes = []
    for lines in (0, MANY):
        (tmp_path / ".voxfit").mkdir(exist_ok=True)
        (tmp_path / ".voxfit" / "outputs.jsonl").write_text(line * lines)
        with open_outputs(tmp_path, "model") as outputs:
            outputs.staged(file).parent.mkdir()
            shutil.copyfile(file, outputs.staged(file))
            before = written()
            outputs.replace_durably(Case(name="label", images=(str(file),)), file, overwrite=True)
            sizes.append(written() - before)
    assert sizes[0] == sizes[1] > 0


# -- measuring --------------------------------------------------------------------------------------------------------


def images(folder: Path, count: int, edge: int) -> Dataset:
    """CT images, no two of which share a value."""
    folder.mkdir()
    found = []
    for number, name in enumerate(names(count)):
        values = np.random.default_rng(number).normal(size=(edge, edge, edge)).astype(np.float32)
        files = [str(folder / f"{name}.{kind}.mha") for kind in ("image", "label")]
        sitk.WriteImage(sitk.GetImageFromArray(values), files[0])
        sitk.WriteImage(sitk.GetImageFromArray(np.ones_like(values, np.uint8)), files[1])
        found.append(Case(name=name, images=(files[0],), label=files[1]))
    labels = Labels(classes=(Label(name="organ", value=1),))
    return Dataset(folder, "synthetic", ("CT",), labels, tuple(found))


def test_the_intensities_of_many_cases_are_counted_in_the_memory_of_few(tmp_path: Path) -> None:
    """The many have four times the values that are kept apart; the few have more than that, too."""
    few, many = (images(tmp_path / str(count), count, 16) for count in (45, 180))
    measure = {
        count: partial(measure_dataset, found, Listener(), LocalExecutor(1))
        for count, found in ((45, few), (180, many))
    }
    assert most_memory(measure[180]) < 1.5 * most_memory(measure[45])


def test_measuring_has_no_step_that_compares_every_case_with_every_other(tmp_path: Path) -> None:
    """Two images under many names, so that reading is the same for each; calls of functions are counted."""
    pair = images(tmp_path / "pair", 2, 2)

    def measuring(count: int) -> Work:
        renamed = [
            case.model_copy(update={"name": f"{case.name}_{number}"})
            for number in range(count // 2)
            for case in pair.cases
        ]
        return partial(measure_dataset, replace(pair, cases=tuple(renamed)), Listener(), LocalExecutor(1))

    measuring(2)()  # imports
    calls = {count: calls_of(measuring(count)) for count in (40, 400)}
    assert calls[400] <= 10 * calls[40]


# -- training ---------------------------------------------------------------------------------------------------------

EDGE = 8


def store_of(folder: Path, count: int) -> Store:
    """Tiny cases: one, under many names."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    shape = (EDGE, EDGE, EDGE)
    label = np.zeros(shape, np.int16)
    label[2:5, 2:5, 2:5] = 1
    placement = PreprocessingGeometry(Geometry(shape, (1.0, 1.0, 1.0)), Box((0, 0, 0), shape), shape)
    write_case(folder, "first", PreparedCase(rng.normal(size=(1, *shape)).astype(np.float32), label, placement), 2)
    for path in list(folder.iterdir()):
        for name in names(count):
            os.link(path, folder / path.name.replace("first", name))
    write_manifest(folder, names(count), "test")
    return Store(folder)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    return {count: store_of(tmp_path_factory.mktemp("store") / "store", count).folder for count in (20, 2_000)}


def task_of(count: int) -> TrainingTask:
    schedule = PolynomialDecay(learning_rate=1e-2, epochs=1, warmup_steps=1)
    return small_task_of(
        configuration_of((EDGE, EDGE, EDGE), 2, base_features=2),
        recipe=Recipe(steps_per_epoch=1, validation_steps=1, schedule=schedule),
        training_cases=tuple(names(count)[count // 5 :]),
        validation_cases=tuple(names(count)[: count // 5]),
        seed=0,
    )


def sampler_of(store: Store, count: int) -> PatchSampler:
    task = task_of(count)
    return PatchSampler(
        store, task.training_cases, task.configuration, task.recipe, labels=task.labels, channels=1, seed=0
    )


def test_a_training_begins_with_as_many_files_whether_cases_are_few_or_many(
    stores: dict[int, Path], tmp_path: Path
) -> None:
    """From the store to the end of an epoch of one step: only the cases that were drawn are opened."""
    begun = {}
    for count, folder in stores.items():
        with files_opened() as paths:
            training = Training(task_of(count), Store(folder), tmp_path / str(count), "cpu", Listener(), None, PLAIN)
            training.run()
            begun[count] = list(paths)
    arrays = {count: {path for path in paths if path.endswith(".npy")} for count, paths in begun.items()}
    assert 0 < len(arrays[2_000]) <= 2 * 2 * 3  # a batch of two for training and for validation, three files a case
    others = {count: [path for path in paths if not path.endswith(".npy")] for count, paths in begun.items()}
    assert len(others[2_000]) <= len(others[20])


def test_a_manifest_of_ten_thousand_cases_is_read_as_quickly_as_a_small_file(tmp_path: Path) -> None:
    few, many = (store_of(tmp_path / str(count), count) for count in (10, 1_000))
    sizes = [(store.folder / "manifest.json").stat().st_size for store in (few, many)]
    assert (sizes[1] - sizes[0]) / (1_000 - 10) < 30  # bytes a case: a name and a number


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux lists open files")
def test_sampling_holds_no_more_open_and_no_more_memory_the_more_cases_it_has_seen(stores: dict[int, Path]) -> None:
    sampler = sampler_of(Store(stores[2_000]), 2_000)

    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    def draw(first: int, last: int) -> None:
        for step in range(first, last):
            sampler.batch(TRAINING, 0, step)

    before = open_files()
    draw(0, 30)
    assert open_files() - before < 100
    # Views of memory maps are in cycles, which wait for the collector: about 100 steps until as many go as come.
    early = most_memory(partial(draw, 30, 180))
    assert most_memory(partial(draw, 180, 900)) < 1.5 * early
    assert open_files() - before < 100


# -- the whole of it --------------------------------------------------------------------------------------------------


def test_a_fit_reads_the_manifest_of_a_store_once(boxes: Path, tmp_path: Path) -> None:
    """Not for each case that is validated, nor for each training."""
    limits = Limits(voxel_budget=16**3, plane_voxels=2048, base_features=4, cascade_factor=100)
    request = voxfit.FitRequest(
        boxes,
        tmp_path,
        configurations=("2d", "3d"),
        epochs=1,
        recipe=Recipe(folds=2, steps_per_epoch=1, validation_steps=1),
        limits=limits,
        device="cpu",
        workers=1,
    )
    begin(request).store()
    with files_opened() as paths:
        voxfit.fit(request)
        stored = [path for path in paths if "/store/" in path and ".part-" not in path]
    assert sum(path.endswith("manifest.json") for path in stored) == 1
    # Where a case lies is read for each label map: of two models, and of their ensemble, which has two parts.
    assert sum(path.endswith(".case.json") for path in stored) == 6 * (1 + 1 + 2)


# -- scores and the report --------------------------------------------------------------------------------------------


def test_scores_may_be_longer_than_other_records(tmp_path: Path) -> None:
    """Ten thousand cases with a hundred labels are 300 MB."""
    path = tmp_path / "scores.json"
    scores(10).save(path)
    path.write_text(path.read_text() + " " * MOST_JSON_BYTES)
    assert Scores.load(path) == scores(10)


def test_a_report_of_many_cases_is_no_longer_than_one_of_some(tmp_path: Path) -> None:
    pages = {}
    for count in (600, 6_000):
        run = tmp_path / str(count)
        fingerprint(count).save(run / "fingerprint.json")
        plan_by(PAPER, fingerprint(count)).save(run / "plan.json")
        scores(count).save(run / "3d" / "cross_validation" / "scores.json")
        write_report(run, run / "report.html", {})
        pages[count] = (run / "report.html").read_text()
    assert len(pages[6_000]) < 1.05 * len(pages[600])
    assert "worst 500 of 6,000 cases; all of them are in 3d/cross_validation/scores.json" in pages[6_000]
    assert "Of 6,000 cases 500 are drawn" in pages[6_000]
    order = sorted(scores(6_000).cases, key=lambda case: sum(item.dice or 0.0 for item in case.labels.values()))
    assert f">{order[0].name}<" in pages[6_000]
    assert "5,980 more such warnings" in pages[6_000]

"""The training loop: it learns, resumes exactly, and survives damaged checkpoints."""

import hashlib
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Lock
from time import perf_counter

import numpy as np
import pytest
import safetensors.torch
import torch
from rich.console import Console
from safetensors import safe_open

from builders.records import configuration_of, task_of
from builders.stores import write_store
from voxfit.console import ConsoleListener
from voxfit.core.errors import TrainingError
from voxfit.core.interruption import Interrupted, interrupt
from voxfit.core.progress import Listener
from voxfit.learning.engine import StepMode
from voxfit.learning.losses import segmentation_loss
from voxfit.learning.sampling import PatchSampler
from voxfit.learning.task import measure_step, task_loss
from voxfit.learning.training import Training
from voxfit.networks.unet import build_network, inference_weights
from voxfit.planning.architecture import Topology, paper_stages
from voxfit.planning.recipes import SGD, Plateau, PolynomialDecay, Recipe, recipe_named
from voxfit.preprocessing.store import Store, write_manifest

NAMES = ("a", "b", "c")


class Stop(Exception):
    """Ends a training as an interruption would."""


class Ear(Listener):
    def __init__(self, stop_after=None):
        self.reports, self.warnings, self.stop_after = [], [], stop_after

    def epoch(self, report):
        self.reports.append(report)
        if len(self.reports) == self.stop_after:
            raise Stop

    def warn(self, text):
        self.warnings.append(text)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    cases = {}
    for seed, name in enumerate(NAMES):
        rng = np.random.default_rng(seed)
        image = rng.normal(size=(1, 14, 16, 18)).astype(np.float32)
        label = np.zeros((14, 16, 18), np.int16)
        corner = rng.integers(1, 7, 3)
        label[tuple(slice(low, low + 6) for low in corner)] = 1
        image[0][label == 1] += 4
        cases[name] = image, label
    return write_store(folder, cases, 2)


def task(seed=0, epochs=4, **changes):
    schedule = PolynomialDecay(learning_rate=1e-2, epochs=epochs, warmup_steps=2)
    recipe = Recipe(steps_per_epoch=6, validation_steps=2, schedule=changes.pop("schedule", schedule))
    return task_of(configuration_of((12, 12, 12), 2, median_shape=(14, 16, 18)), recipe=recipe, seed=seed)


def weights(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def uninterrupted(store, tmp_path_factory):
    folder, ear = tmp_path_factory.mktemp("whole"), Ear()
    return weights(Training(task(), store, folder, "cpu", ear).run()), folder, ear


def test_it_learns(uninterrupted, store, tmp_path):
    _, folder, ear = uninterrupted
    assert [report.epoch for report in ear.reports] == [1, 2, 3, 4]
    assert ear.reports[-1].validation_loss < ear.reports[0].validation_loss - 0.2
    assert ear.reports[-1].share_done == 1
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert {"training_loss", "validation_loss", "learning_rate", "validation_dice", "seconds", "wait_share"} <= set(
        lines[0]
    )


def test_the_same_seed_gives_the_same_bytes_and_another_others(uninterrupted, store, tmp_path):
    again = weights(Training(task(), store, tmp_path / "again", "cpu", Ear()).run())
    other = weights(Training(task(seed=1), store, tmp_path / "other", "cpu", Ear()).run())
    assert same(uninterrupted[0], again)
    assert not same(uninterrupted[0], other)


@pytest.mark.parametrize("after", [1, 3])
def test_a_resumed_training_ends_in_the_same_bytes(uninterrupted, store, tmp_path, after):
    with pytest.raises(Stop):
        Training(task(), store, tmp_path, "cpu", Ear(stop_after=after)).run()
    ear = Ear()
    resumed = weights(Training(task(), store, tmp_path, "cpu", ear).run())
    assert [report.epoch for report in ear.reports] == list(range(after + 1, 5))
    assert same(uninterrupted[0], resumed)
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("damage", ["a bit", "its end", "everything"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(uninterrupted, store, tmp_path, damage):
    with pytest.raises(Stop):
        Training(task(), store, tmp_path, "cpu", Ear(stop_after=3)).run()
    newest = sorted(tmp_path.glob("checkpoint/*/epoch_*"))[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 255 if damage == "a bit" else 0
    newest.write_bytes(bytes({"a bit": content, "its end": content[:-100], "everything": b""}[damage]))
    ear = Ear()
    resumed = weights(Training(task(), store, tmp_path, "cpu", ear).run())
    assert any("damaged" in text for text in ear.warnings)
    assert [report.epoch for report in ear.reports] == [3, 4]
    assert same(uninterrupted[0], resumed)


def test_a_damaged_checkpoint_does_not_count_as_one_of_the_two_that_are_kept(store, tmp_path):
    with pytest.raises(Stop):
        Training(task(), store, tmp_path, "cpu", Ear(stop_after=2)).run()
    newest = max(tmp_path.glob("checkpoint/*/epoch_*"), key=lambda path: path.name)
    newest.write_bytes(b"")
    with pytest.raises(Stop):
        Training(task(), store, tmp_path, "cpu", Ear(stop_after=1)).run()
    kept = sorted(tmp_path.glob("checkpoint/*/epoch_*"))
    assert [path.name[:12] for path in kept] == ["epoch_000001", "epoch_000002"]
    assert all(path.stat().st_size for path in kept)


def test_an_epoch_stands_in_the_history_before_its_checkpoint_does(store, tmp_path):
    """Killed between the two, a training does the epoch again; the other way round, its line would be lost."""
    program = f"""
import sys
from pathlib import Path
import safetensors.torch
sys.path[:0] = {[str(folder) for folder in Path(__file__).parents[:2]]!r}
from test_training import Ear, Store, Training, task

written = safetensors.torch.save
def save_and_die(tensors, metadata):
    if '"epoch": 2' in metadata["progress"] and '"step": 0' in metadata["progress"]:
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
    return written(tensors, metadata)

safetensors.torch.save = save_and_die
Training(task(), Store(Path({str(store.folder)!r})), Path({str(tmp_path)!r}), "cpu", Ear()).run()
"""
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [json.loads(line)["epoch"] for line in (tmp_path / "history.jsonl").read_text().splitlines()] == [1, 2]
    Training(task(), store, tmp_path, "cpu", Ear()).run()
    epochs = [json.loads(line)["epoch"] for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert epochs == [1, 2, 3, 4]


class Killing(Store):
    """A store of which reading a certain image makes the operating system send SIGTERM to this process."""

    def __init__(self, store, reads):
        super().__init__(store.folder)
        self.left = reads

    def image(self, name):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().image(name)


@pytest.fixture
def terminated():
    """SIGTERM as the command line handles it."""
    before = signal.signal(signal.SIGTERM, interrupt)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("terminated")
@pytest.mark.parametrize("made", ["the paper's", "nnU-Net's"])
def test_terminated_anywhere_it_ends_in_the_same_bytes(uninterrupted, store, tmp_path, made):
    """In the middle of epochs, before the first step, while validating; 4 epochs read 6 x 2 + 2 x 2 images each."""
    settings = task() if made == "the paper's" else second_version(paper_stages((3, 3, 3), 4, None))
    expected = uninterrupted[0]
    if made != "the paper's":
        expected = weights(Training(settings, store, tmp_path / "whole", "cpu", Ear()).run())
    places = []
    kills = (1, 8, 13, 15, 9, 22) if made == "the paper's" else (8, 15)
    for reads in kills:
        with pytest.raises(Interrupted):
            Training(settings, Killing(store, reads), tmp_path / "part", "cpu", Ear()).run()
        newest = max((tmp_path / "part").glob("checkpoint/*/epoch_*"), key=lambda path: path.name)
        places.append(newest.name[6:19])
    assert places == sorted(set(places))  # every one went on
    assert sum(not place.endswith("000000") for place in places) >= len(kills) / 2
    ear = Ear()
    resumed = weights(Training(settings, store, tmp_path / "part", "cpu", ear).run())
    assert same(expected, resumed)
    lines = [json.loads(line) for line in (tmp_path / "part" / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert [line["steps"] for line in lines] == [6] * 4
    if made == "the paper's":
        whole = [json.loads(line) for line in (uninterrupted[1] / "history.jsonl").read_text().splitlines()]
        assert [line["training_loss"] for line in lines] == [line["training_loss"] for line in whole]


def unaugmented(made):
    """A training whose augmentation never does anything."""
    usual = made.recipe.augmentation_3d
    never = usual.model_copy(update={key: 0.0 for key in type(usual).model_fields if key.endswith("_probability")})
    return replace(made, recipe=made.recipe.model_copy(update={"augmentation_3d": never}))


def origins(patches, store):
    """The cases of which patches (batch, channel, *patch) are pieces, voxel by voxel."""
    found = set()
    for patch in patches[:, 0].numpy():
        for name in NAMES:
            windows = np.lib.stride_tricks.sliding_window_view(store.image(name)[0], patch.shape)
            if any(
                np.array_equal(windows[tuple(at)], patch) for at in np.argwhere(windows[..., 0, 0, 0] == patch[0, 0, 0])
            ):
                found.add(name)
    return found


def what_is_seen(training):
    """What the network is given, apart for training and validation, as the training goes on."""
    seen = {True: [], False: []}
    training.network.register_forward_pre_hook(lambda network, given: seen[network.training].append(given[0].clone()))
    return seen


def test_validation_cases_are_never_trained_on_and_training_cases_never_validated(store, tmp_path):
    training = Training(unaugmented(task(epochs=2)), store, tmp_path, "cpu", Ear())
    seen = what_is_seen(training)
    training.run()
    assert len(seen[True]) == 2 * 6
    assert len(seen[False]) == 2 * 2
    assert origins(torch.cat(seen[True]), store) == {"a", "b"}
    assert origins(torch.cat(seen[False]), store) == {"c"}


def test_validation_patches_are_whole_pieces_of_their_case_and_always_the_same(store, tmp_path):
    """Whatever is done to those of training."""
    made = task(epochs=3)
    always = made.recipe.augmentation_3d
    always = always.model_copy(update={key: 1.0 for key in type(always).model_fields if key.endswith("_probability")})
    made = replace(made, recipe=made.recipe.model_copy(update={"augmentation_3d": always}))
    training = Training(made, store, tmp_path, "cpu", Ear())
    seen = what_is_seen(training)
    training.run()
    first, second, third = (torch.cat(seen[False][start : start + 2]) for start in (0, 2, 4))
    assert all(origins(patch[None], store) == {"c"} for patch in first)
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert origins(torch.cat(seen[True]), store) == set()


def rates_of(training):
    """The learning rate of each step, as the optimiser has it when the step is taken."""
    rates = []
    training.engine.optimizer.register_step_pre_hook(
        lambda optimizer, *_: rates.append({group["lr"] for group in optimizer.param_groups})
    )
    training.run()
    assert all(len(found) == 1 for found in rates)
    return [rate for found in rates for rate in found]


def test_the_rate_of_nnunet_changes_with_the_epoch(store, tmp_path):
    """Its PolyLRScheduler: 0.01 (1 - epoch / epochs)^0.9."""
    schedule = recipe_named("nnunet-v2").schedule.model_copy(update={"epochs": 4})
    rates = rates_of(Training(task(schedule=schedule), store, tmp_path, "cpu", Ear()))
    assert rates == pytest.approx([0.01 * (1 - epoch / 4) ** 0.9 for epoch in range(4) for _ in range(6)])
    assert [line["learning_rate"] for line in history_of(tmp_path)] == rates[5::6]


def test_an_annealed_rate_changes_with_the_step(store, tmp_path):
    """Two steps of warm-up, then down to zero at the end of 24."""
    rates = rates_of(Training(task(), store, tmp_path, "cpu", Ear()))
    assert rates == pytest.approx([0.01 * min((step + 1) / 2, 1) * (1 - step / 24) ** 0.9 for step in range(24)])
    assert [line["learning_rate"] for line in history_of(tmp_path)] == rates[5::6]


def test_every_line_of_the_history_is_on_the_disk_before_its_checkpoint(store, tmp_path, monkeypatch):
    """As often, and as long, as the file was when it was brought there; then comes a checkpoint."""
    synced, fsync = [], os.fsync

    def noting(handle):
        synced.append((os.fstat(handle).st_ino, os.fstat(handle).st_size))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noting)
    Training(task(), store, tmp_path, "cpu", Ear()).run()
    path = tmp_path / "history.jsonl"
    ends = np.cumsum([len(line) + 1 for line in path.read_text().splitlines()])
    places = [index for index, (inode, _) in enumerate(synced) if inode == path.stat().st_ino]
    assert [synced[index][1] for index in places][-4:] == ends.tolist()
    assert all(b > a + 1 for a, b in itertools.pairwise([*places[-4:], len(synced)]))


# Of a forward pass of one patch: two levels of width 4 and 8, two convolutions down and up, 12^3 voxels.
FORWARD = 12**3 * 27 * (1 * 4 + 4 * 4) + 6**3 * 27 * (4 * 8 + 8 * 8)
FORWARD += 12**3 * 4 * 8 + 12**3 * 27 * (8 * 4 + 4 * 4) + 12**3 * 4 * 2
# Product and sum, forward and twice as much backward, two patches.
STEP_OPERATIONS = FORWARD * 2 * 3 * 2


class Watch:
    """Notes when the network of a training is used, and sends a signal when it is for the nth time."""

    def __init__(self, training, nth=None):
        self.times, self.nth = [], nth
        training.network.register_forward_pre_hook(self)

    def __call__(self, *_):
        self.times.append(perf_counter())
        if len(self.times) == self.nth:
            os.kill(os.getpid(), signal.SIGTERM)


def history_of(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


MEASURED = {"seconds", "wait_share", "teraflops", "peak_share"}
SCHEDULES = {
    "every step": PolynomialDecay(learning_rate=1e-2, epochs=3, warmup_steps=2),
    "every epoch": PolynomialDecay(learning_rate=1e-2, epochs=3, warmup_steps=0, every="epoch"),
    "plateau": Plateau(epochs=3, patience=1),
}


@pytest.fixture(scope="module", params=SCHEDULES)
def scheduled(request, store, tmp_path_factory):
    """A schedule, and the history of a training by it."""
    folder, schedule = tmp_path_factory.mktemp("scheduled"), SCHEDULES[request.param]
    Training(task(schedule=schedule), store, folder, "cpu", Ear()).run()
    return schedule, history_of(folder)


@pytest.mark.usefixtures("terminated")
@pytest.mark.parametrize("nth", [11, 14, 16])
def test_an_interrupted_epoch_is_recorded_as_if_it_had_not_been(scheduled, store, tmp_path, nth):
    """In the middle of the second epoch, in its last step, in its last batch of validation."""
    schedule, whole = scheduled
    training = Training(task(schedule=schedule), store, tmp_path, "cpu", Ear())
    before = Watch(training, nth)
    with pytest.raises(Interrupted):
        training.run()
    assert len(before.times) == nth
    ear = Ear()
    training = Training(task(schedule=schedule), store, tmp_path, "cpu", ear)
    after = Watch(training)
    training.run()
    lines = history_of(tmp_path)
    assert [{key: line[key] for key in line.keys() - MEASURED} for line in lines] == [
        {key: line[key] for key in line.keys() - MEASURED} for line in whole
    ]
    # What was done of the epoch before counts: the first of its batches is the ninth of all.
    left = 16 - min(nth, 14)
    report = ear.reports[0]
    assert report.seconds > before.times[-1] - before.times[8] + after.times[left - 1] - after.times[0]
    assert report.steps_per_second == pytest.approx(6 / report.seconds)
    assert report.learning_rate == lines[1]["learning_rate"]
    assert lines[1]["seconds"] == pytest.approx(report.seconds, abs=1e-3)
    assert 0 < lines[1]["wait_share"] < 1
    # Six steps in less than the whole epoch, on a machine that does no more than it can.
    assert report.teraflops > 6 * STEP_OPERATIONS / report.seconds / 1e12
    assert lines[1]["teraflops"] == pytest.approx(report.teraflops, abs=1e-4)
    assert lines[1]["peak_share"] == pytest.approx(report.peak_share, abs=1e-3)
    assert sum(line["seconds"] for line in lines) == pytest.approx(training.progress.seconds, abs=0.01)


@pytest.mark.usefixtures("terminated")
def test_what_an_old_checkpoint_does_not_know_is_null_and_no_number(uninterrupted, store, tmp_path):
    """One of before speeds were kept in it, written after the last step of an epoch."""
    training = Training(task(), store, tmp_path, "cpu", Ear())
    Watch(training, 14)
    with pytest.raises(Interrupted):
        training.run()
    newest = max(tmp_path.glob("checkpoint/*/epoch_*"), key=lambda path: path.name)
    with safe_open(newest, framework="pt") as file:
        progress = json.loads(file.metadata()["progress"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del progress["pace"]
    content = safetensors.torch.save(tensors, {"progress": json.dumps(progress)})
    newest.unlink()
    checksum = hashlib.sha256(content).hexdigest()[:16]
    newest.with_name(f"epoch_000001.000006-{checksum}.safetensors").write_bytes(content)
    ear = Ear()
    assert same(uninterrupted[0], weights(Training(task(), store, tmp_path, "cpu", ear).run()))
    assert ear.warnings == []
    line = history_of(tmp_path)[1]
    assert [line[key] for key in ("learning_rate", "teraflops", "peak_share")] == [None] * 3
    assert None not in history_of(tmp_path)[2].values()
    shown = io.StringIO()
    console = ConsoleListener(Console(file=shown, width=200))
    console.epoch(ear.reports[0])
    assert "rate -  - steps/s" in shown.getvalue()
    console = ConsoleListener(Console(file=shown, width=200, force_terminal=True))
    for report in ear.reports:
        console.epoch(report)


def with_a_broken_case(store, folder):
    """The store, and a case whose image is not a number anywhere."""
    for name in NAMES:
        for path in store.folder.glob(f"{name}.*"):
            (folder / path.name).write_bytes(path.read_bytes())
    np.save(folder / "broken.image.npy", np.full((1, 14, 16, 18), np.nan, np.float32))
    np.save(folder / "broken.label.npy", store.label("a"))
    np.save(folder / "broken.index.npy", store.index("a"))
    (folder / "broken.case.json").write_bytes((folder / "a.case.json").read_bytes())
    write_manifest(folder, [*NAMES, "broken"], "x")
    return Store(folder)


def test_a_step_without_a_finite_loss_is_skipped_and_its_cases_are_named(store, tmp_path):
    made = replace(task(), training_cases=(*("a", "b") * 8, "broken"))
    ear = Ear()
    network = Training(made, with_a_broken_case(store, tmp_path), tmp_path / "run", "cpu", ear).run()
    assert all(torch.isfinite(tensor).all() for tensor in network.state_dict().values())
    assert [report.epoch for report in ear.reports] == [1, 2, 3, 4]
    assert all(np.isfinite(report.training_loss) for report in ear.reports)
    assert ear.warnings
    assert all("not finite" in text and "broken" in text for text in ear.warnings)


def test_three_in_a_row_stop_it_and_the_last_good_checkpoint_stays(store, tmp_path):
    broken = with_a_broken_case(store, tmp_path)
    with pytest.raises(Stop):
        Training(task(), broken, tmp_path / "run", "cpu", Ear(stop_after=2)).run()
    good = sorted(path.name for path in (tmp_path / "run").glob("checkpoint/*/*"))
    # The same task, whose cases have become unreadable meanwhile.
    for name in ("a", "b"):
        np.save(broken.folder / f"{name}.image.npy", np.full((1, 14, 16, 18), np.nan, np.float32))
    ear = Ear()
    with pytest.raises(TrainingError, match=r"epoch 3, step 3: 3 steps in a row .* last good checkpoint"):
        Training(task(), Store(broken.folder), tmp_path / "run", "cpu", ear).run()
    assert len(ear.warnings) == 3
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint/*/*")) == good


MANY = tuple(f"case_{number:02}" for number in range(40))
"""More than a store keeps open: what happens to their files is seen in the middle of a training."""


@pytest.fixture
def large(store, tmp_path):
    """A store of many cases, and their training."""
    folder = tmp_path / "large"
    folder.mkdir()
    for number, name in enumerate((*MANY, "c")):
        for path in store.folder.glob(f"{NAMES[number % 3] if name != 'c' else 'c'}.*"):
            (folder / path.name.replace(path.name.split(".")[0], name, 1)).write_bytes(path.read_bytes())
    write_manifest(folder, [*MANY, "c"], "x")
    return folder, replace(task(), training_cases=MANY)


class Vandal(Ear):
    """Lets something happen to the files of a store after the first epoch."""

    def __init__(self, happen):
        super().__init__()
        self.happen = happen

    def epoch(self, report):
        super().epoch(report)
        if report.epoch == 1:
            self.happen()


def cut_short(path):
    content = path.read_bytes()
    path.unlink()  # what is mapped stays whole: reading beyond the end of a map would kill the process
    path.write_bytes(content[:99])


def of_another_shape(path):
    path.unlink()
    np.save(path, np.zeros((1, 1), np.int8))


@pytest.mark.parametrize(
    ("part", "damage", "reason"),
    [
        (
            "image",
            Path.unlink,
            r"image\.npy: cannot be read \(.*No such file.*\)\. Delete the store folder; `fit` makes",
        ),
        ("label", cut_short, r"label\.npy: cannot be read .* Delete the"),
        ("index", of_another_shape, r"(Index|AxisError|ValueError).*: "),
    ],
    ids=["not there", "cut short", "of another shape"],
)
def test_a_case_that_is_damaged_meanwhile_ends_a_training_that_goes_on_when_it_is_mended(
    large, tmp_path, part, damage, reason
):
    folder, made = large
    expected = weights(Training(made, Store(folder), tmp_path / "whole", "cpu", Ear()).run())
    kept = tmp_path / "kept"
    shutil.copytree(folder, kept)

    def vandalize():
        for path in folder.glob(f"case_*.{part}.npy"):
            damage(path)

    ear = Vandal(vandalize)
    with pytest.raises(TrainingError) as caught:
        Training(made, Store(folder), tmp_path / "run", "cpu", ear).run()
    found = re.fullmatch(
        rf"test, epoch 2, step (\d): the patches of (case_\d\d) could not be made\. .*{reason}.* A second attempt "
        r"failed, too, so the training stops\. A checkpoint was written: run the same command again to go on from "
        r"there\.",
        str(caught.value),
    )
    assert found, caught.value
    assert ear.warnings == []
    newest = max((tmp_path / "run").glob("checkpoint/*/epoch_*"), key=lambda path: path.name)
    assert newest.name.startswith(f"epoch_000001.{int(found[1]) - 1:06}")
    if part == "image":
        assert f"{found[2]}.image.npy" in str(caught.value)

    shutil.rmtree(folder)
    shutil.copytree(kept, folder)
    ear = Ear()
    assert same(expected, weights(Training(made, Store(folder), tmp_path / "run", "cpu", ear).run()))
    assert ear.warnings == []


class Flickering(Store):
    """A store that fails in one reading of an image: its file is not there, or a library raises what it likes."""

    def __init__(self, folder, reading, way):
        super().__init__(folder)
        self.left, self.way = reading, way
        self.lock = Lock()  # one thread at a time: no other must see what this one does

    def image(self, name):
        with self.lock:
            self.left -= 1
            if self.left or self.way == "a file":
                return self._read(name)
            raise SystemError("AST constructor recursion depth mismatch (before=36, after=32)")

    def _read(self, name):
        path = self.folder / f"{name}.image.npy"
        if self.left == 0:
            path.rename(path.with_suffix(".away"))
        try:
            return Store(self.folder).image(name)
        finally:
            if self.left == 0:
                path.with_suffix(".away").rename(path)


@pytest.mark.parametrize("way", ["a file", "an error"])
@pytest.mark.parametrize("reading", [1, 8, 12, 17])
def test_a_batch_that_fails_once_is_made_again(uninterrupted, store, tmp_path, reading, way):
    """The first, one in the middle, the last, one of validation or of the next epoch."""
    folder, ear = tmp_path / "store", Ear()
    shutil.copytree(store.folder, folder)
    training = Training(task(), Flickering(folder, reading, way), tmp_path / "run", "cpu", ear)
    assert same(uninterrupted[0], weights(training.run()))
    assert len(ear.warnings) == 1, ear.warnings
    reason = r"/[abc]\.image\.npy: cannot be read .*" if way == "a file" else "SystemError: AST constructor .*"
    assert re.fullmatch(
        rf"test, epoch \d, (validation )?step \d: the patches of [abc] could not be made\. .*{reason}\. "
        r"A second attempt was successful\.",
        ear.warnings[0],
    )


def test_a_lack_of_memory_is_not_tried_again(store, tmp_path):
    """It has its own remedy: a smaller batch."""

    class Full(Store):
        def image(self, name):
            raise MemoryError

    ear = Ear()
    with pytest.raises(MemoryError):
        Training(task(), Full(store.folder), tmp_path, "cpu", ear).run()
    assert ear.warnings == []


def test_a_way_of_execution_is_kept_to_the_end(store, tmp_path):
    """Resumed by a machine that would choose another one; the weights have their plain names and bytes."""
    last = StepMode(channels_last=True)
    whole = weights(Training(task(), store, tmp_path / "whole", "cpu", Ear(), execution=last).run())
    with pytest.raises(Stop):
        Training(task(), store, tmp_path / "part", "cpu", Ear(stop_after=2), execution=last).run()
    resumed = Training(task(), store, tmp_path / "part", "cpu", Ear())
    assert resumed.engine.execution == last
    assert same(whole, weights(resumed.run()))
    assert StepMode.load(tmp_path / "part" / "execution.json") == last


def test_the_speed_is_in_the_history(uninterrupted):
    lines = [json.loads(line) for line in (uninterrupted[1] / "history.jsonl").read_text().splitlines()]
    reports = uninterrupted[2].reports
    for line, report in zip(lines, reports, strict=True):
        assert line["teraflops"] == pytest.approx(report.teraflops, abs=1e-4)
        # Validation is part of the epoch, but not of what is measured.
        assert report.teraflops > 6 * STEP_OPERATIONS / report.seconds / 1e12
        assert 0 < report.peak_share < 1


def test_a_changed_task_does_not_continue_an_old_checkpoint(store, tmp_path):
    with pytest.raises(Stop):
        Training(task(), store, tmp_path, "cpu", Ear(stop_after=2)).run()
    ear = Ear()
    Training(task(epochs=2), store, tmp_path, "cpu", ear).run()
    assert [report.epoch for report in ear.reports] == [1, 2]


def second_version(stages, **changes):
    """The settings of nnU-Net v2: momentum, cut gradients, losses on coarse levels."""
    base = task(**changes)
    recipe = base.recipe.model_copy(
        update={"optimizer": SGD(), "max_grad_norm": 12.0, "deep_supervision": True, "foreground_oversampling": "third"}
    )
    topology = Topology(in_channels=1, out_channels=2, **dict(stages))
    configuration = base.configuration.model_copy(update={"patch_size": (16, 16, 16), "num_pool": (3, 3, 3)})
    return replace(base, recipe=recipe, topology=topology, configuration=configuration)


def test_momentum_and_coarse_losses_resume_too(store, tmp_path):
    made = second_version(paper_stages((3, 3, 3), 4, None))
    whole = Training(made, store, tmp_path / "whole", "cpu", Ear()).run()
    with pytest.raises(Stop):
        Training(made, store, tmp_path / "part", "cpu", Ear(stop_after=2)).run()
    resumed = Training(made, store, tmp_path / "part", "cpu", Ear()).run()
    assert same(weights(whole), weights(resumed))
    assert whole.state_dict().keys() - inference_weights(whole).keys() == {
        "coarse_heads.0.weight",
        "coarse_heads.0.bias",
    }


@pytest.mark.parametrize("dice", ["sample", "batch"])
def test_coarse_losses_are_halved_level_by_level(dice):
    """Against the sum written out; the coarsest of three decoder levels has no loss."""
    made = second_version(paper_stages((3, 3, 3), 4, None))
    made = replace(made, configuration=made.configuration.model_copy(update={"dice": dice}))
    network = build_network(made.topology, 0, deep_supervision=True)
    image = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    label = torch.zeros(2, 16, 16, 16, dtype=torch.int16)
    label[0, 4:10, 3:12, 5:8] = 1  # so little, and the other sample so full, that the two kinds of Dice differ
    label[1, 1:] = 1
    fine, coarse = network(image)
    assert coarse.shape == (2, 2, 8, 8, 8)

    def total(per_sample):
        # The voxel behind the middle of each block of two stands for it.
        first = segmentation_loss(fine, label, made.labels, per_sample=per_sample)
        second = segmentation_loss(coarse, label[:, 1::2, 1::2, 1::2], made.labels, per_sample=per_sample)
        return (first + second / 2) / 1.5

    found = task_loss(made, [fine, coarse], label)
    assert torch.allclose(found, total(dice == "sample"))
    assert abs(found - total(dice == "batch")) > 0.01
    assert isinstance(network.eval()(image), torch.Tensor)


@pytest.mark.parametrize("pools", [1, 2])
def test_shallow_networks_have_one_loss(pools):
    network = build_network(second_version(paper_stages((pools,) * 3, 4, None)).topology, 0, deep_supervision=True)
    assert isinstance(network(torch.zeros(1, 1, 16, 16, 16)), torch.Tensor)


@pytest.mark.parametrize(
    ("batch", "oversampling", "expected"), [(2, "third", 1), (9, "third", 3), (2, "above_third", 1)]
)
def test_samples_centred_on_foreground(store, batch, oversampling, expected):
    made = task()
    sampler = PatchSampler(
        store,
        ["a"],
        made.configuration.model_copy(update={"batch_size": batch}),
        made.recipe.model_copy(update={"foreground_oversampling": oversampling}),
        labels=made.labels,
        channels=1,
        seed=0,
    )
    assert sampler.num_foreground_patches == expected


def test_a_timed_training_keeps_its_time(store, tmp_path):
    ear = Ear()
    training = Training(task(schedule=PolynomialDecay(learning_rate=1e-2, seconds=3.0)), store, tmp_path, "cpu", ear)
    training.run()
    assert 3.0 <= training.progress.seconds < 4.5
    assert ear.reports[-1].learning_rate < 2e-3


def test_the_papers_schedule_runs(store, tmp_path):
    ear = Ear()
    Training(task(schedule=Plateau(epochs=2)), store, tmp_path, "cpu", ear).run()
    assert [report.learning_rate for report in ear.reports] == [3e-4, 3e-4]


def test_a_step_is_timed():
    assert 0 < measure_step(task(), "cpu") < 10

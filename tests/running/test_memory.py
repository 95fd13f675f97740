"""A fit whose batch does not fit into memory: a limit of the operating system, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from builders.steps import begin
from voxfit.core.errors import TrainingError
from voxfit.core.layout import Layout
from voxfit.core.progress import Listener
from voxfit.planning.plan import Limits
from voxfit.planning.recipes import PolynomialDecay, Recipe
from voxfit.planning.settings import Settings
from voxfit.running.artefacts import trained_folds
from voxfit.running.request import FitRequest
from voxfit.running.trainings import OutOfMemory, halve_batch, train

TESTS = Path(__file__).parents[1]
SCRIPT = """
import resource, sys
import torch
sys.path.insert(0, sys.argv[5])
from builders.steps import begin
from voxfit.core.progress import Listener
from voxfit.planning.plan import Limits
from voxfit.planning.recipes import PolynomialDecay, Recipe
from voxfit.running.request import FitRequest
from voxfit.running.trainings import OutOfMemory, halve_batch, train

torch.set_num_threads(1)

class Ear(Listener):
    def warn(self, text):
        print("warning:", text)

recipe = Recipe(folds=2, steps_per_epoch=2, validation_steps=1, schedule=PolynomialDecay(learning_rate=1e-2, epochs=1))
limits = Limits(voxel_budget=16**3, plane_voxels=2048, base_features=4, dataset_fraction=1.0)
request = FitRequest(sys.argv[1], sys.argv[2], configurations=("3d",), recipe=recipe, limits=limits, workers=1)
made = begin(request, Ear())
plan = made.plan
batch = {"3d": plan.configurations["3d"].revised(batch_size=int(sys.argv[3]))}
plan.revised(configurations=plan.configurations | batch).save(made.run.layout.plan)
made = begin(request, Ear())
store, experiment = made.store(), made.settle()
status = dict(line.split(":", 1) for line in open("/proc/self/status") if line.startswith("Vm"))
room = int(status["VmSize"].split()[0]) * 1024 + int(sys.argv[4]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
try:
    train(made.run, experiment, "3d", 0, store, None, "cpu")
except OutOfMemory as failure:
    experiment = halve_batch(made.run, experiment, "3d", "in fold 0", failure)
train(made.run, experiment, "3d", 0, store, None, "cpu")
"""


def fit(boxes, run, batch, mebibytes):
    """Train one fold with a batch in so much memory more than the process has when training begins."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(boxes), str(run), str(batch), str(mebibytes), str(TESTS)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="needs the limits of Linux")
def test_a_batch_that_does_not_fit_is_halved_and_recorded(boxes, tmp_path):
    # Beside what is there, half of the batch takes 2.2 to 2.4 GiB from the start, 2.6 to 2.8 after a try that failed.
    said = fit(boxes, tmp_path, 2048, 3300)
    assert "out of memory on cpu with a batch of 2048 patches" in said
    plan = Settings.load(tmp_path / "training.json").plan
    assert plan.configurations["3d"].batch_size == 1024
    assert any("3d: batch size 2048 -> 1024, because memory ran out in fold 0" in change for change in plan.changes)
    # Run again, it is there: nothing is planned or trained anew.
    recipe = Recipe(
        folds=2, steps_per_epoch=2, validation_steps=1, schedule=PolynomialDecay(learning_rate=1e-2, epochs=1)
    )
    experiment = begin(FitRequest(boxes, tmp_path, configurations=("3d",), recipe=recipe, workers=1)).settle()
    assert experiment.plan == plan
    assert trained_folds(Layout(tmp_path), experiment, "3d") == (0,)


TRIAL = """
import resource, sys
import torch
from voxfit.core.errors import TrainingError
from voxfit.planning.recipes import PolynomialDecay, Recipe
from voxfit.running.fit import fit
from voxfit.running.request import FitRequest

torch.set_num_threads(1)
recipe = Recipe(folds=2, steps_per_epoch=2, validation_steps=1, schedule=PolynomialDecay(learning_rate=1e-2, epochs=1))
status = dict(line.split(":", 1) for line in open("/proc/self/status") if line.startswith("Vm"))
room = int(status["VmSize"].split()[0]) * 1024 + 4 * 2**30
resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
try:
    fit(FitRequest(*sys.argv[1:], configurations=("3d",), folds=(0,), recipe=recipe, device="cpu", workers=1))
except TrainingError as error:
    print("error:", error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs the limits of Linux")
def test_a_trial_step_that_does_not_fit_halves_the_batch_before_anything_is_trained(boxes, tmp_path):
    """By the whole of `fit`, in a process that may take 4 GiB; the images of half a batch alone are 32."""
    limits = Limits(voxel_budget=16**3, plane_voxels=2048, base_features=4, dataset_fraction=1.0)
    plan = begin(FitRequest(boxes, tmp_path, limits=limits, workers=1)).plan
    large = plan.configurations["3d"].revised(batch_size=2**16, patch_size=(64, 64, 64), num_pool=(2, 2, 2))
    plan.revised(configurations={"3d": large}).save(tmp_path / "plan.json")
    command = [sys.executable, "-c", TRIAL, str(boxes), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "out of memory on cpu with a batch of 32768 patches" in done.stdout
    assert "a trial step did not fit" in done.stdout
    changes = Settings.load(tmp_path / "training.json").plan.changes
    assert changes == ("3d: batch size 65536 -> 32768, because memory ran out in a trial step",)
    assert not (tmp_path / "3d").exists()


class Stop(Exception):
    """Ends a training as an interruption would."""


class Ear(Listener):
    def __init__(self, stop_in=None):
        self.told, self.stop_in, self.at = [], stop_in, ""

    def stage(self, text):
        self.at = text

    def say(self, text):
        self.told.append(text)

    def epoch(self, report):
        if self.stop_in and self.stop_in in self.at:
            raise Stop


def test_a_smaller_batch_keeps_what_was_trained_and_the_checkpoint(boxes, tmp_path):
    recipe = Recipe(
        folds=2, steps_per_epoch=2, validation_steps=1, schedule=PolynomialDecay(learning_rate=1e-2, epochs=2)
    )
    limits = Limits(voxel_budget=16**3, plane_voxels=2048, base_features=4, dataset_fraction=1.0)
    request = FitRequest(boxes, tmp_path, configurations=("3d",), recipe=recipe, limits=limits, workers=1)
    plan = begin(request).plan
    larger = plan.configurations["3d"].revised(batch_size=5)
    plan.revised(configurations={"3d": larger}).save(tmp_path / "plan.json")

    made = begin(request, Ear(stop_in="fold 1"))
    store, experiment = made.store(), made.settle()
    train(made.run, experiment, "3d", 0, store, None, "cpu")
    with pytest.raises(Stop):
        train(made.run, experiment, "3d", 1, store, None, "cpu")
    failure = OutOfMemory("3d fold 1", larger, "cpu", "as if")
    halve_batch(made.run, experiment, "3d", "in fold 1", failure)
    ear = Ear()
    made = begin(request, ear)
    experiment = made.settle()
    assert experiment.plan.configurations["3d"].batch_size == 2
    assert experiment.plan.changes[-1] == (
        "3d: batch size 5 -> 2, because memory ran out in fold 1; trained with 5: fold 0"
    )
    assert trained_folds(made.run.layout, experiment, "3d") == (0,)
    train(made.run, experiment, "3d", 1, store, None, "cpu")
    assert "3d fold 1: goes on after epoch 1." in ear.told
    assert trained_folds(made.run.layout, experiment, "3d") == (0, 1)
    with pytest.raises(TrainingError, match="cannot be smaller"):
        halve_batch(made.run, experiment, "3d", "in fold 1", failure)

"""A fit whose batch does not fit into memory: a limit of the operating system, in a process of its own."""

import subprocess
import sys

import pytest

from voxfit.core.errors import TrainingError
from voxfit.core.listening import Listener
from voxfit.planning.plan import Limits, Plan
from voxfit.planning.recipe import Annealed, Recipe
from voxfit.running.folds import _halve_batch, is_trained, train
from voxfit.running.pipeline import Run
from voxfit.running.request import FitRequest

SCRIPT = """
import resource, sys
import torch
from voxfit.core.errors import TrainingError
from voxfit.core.listening import Listener
from voxfit.planning.plan import Limits
from voxfit.planning.recipe import Annealed, Recipe
from voxfit.running.folds import train
from voxfit.running.pipeline import Run
from voxfit.running.request import FitRequest

torch.set_num_threads(1)

class Ear(Listener):
    def warn(self, text):
        print("warning:", text)

recipe = Recipe(folds=2, steps_per_epoch=2, validation_steps=1, schedule=Annealed(learning_rate=1e-2, epochs=1))
limits = Limits(voxel_budget=16**3, plane_voxels=2048, base_features=4, dataset_fraction=1.0)
request = FitRequest(sys.argv[1], sys.argv[2], configurations=("3d",), recipe=recipe, limits=limits, workers=1)
run = Run(request, Ear())
run.store(run.base_plan.grid("3d"))
plan = run.base_plan
batch = {"3d": plan.configurations["3d"].model_copy(update={"batch_size": int(sys.argv[3])})}
plan.model_copy(update={"configurations": plan.configurations | batch}).save(run.root / "plan.json")
run = Run(request, Ear())
status = dict(line.split(":", 1) for line in open("/proc/self/status") if line.startswith("Vm"))
room = int(status["VmSize"].split()[0]) * 1024 + int(sys.argv[4]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
try:
    train(run, "3d", 0)
except TrainingError as error:
    print("error:", error)
"""


def fit(boxes, run, batch, mebibytes):
    """Train one fold with a batch in so much memory more than the process has when training begins."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(boxes), str(run), str(batch), str(mebibytes)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="needs the limits of Linux")
def test_a_batch_that_does_not_fit_is_halved_and_recorded(boxes, tmp_path):
    # Half of the batch takes 2.1 GiB beside what is there, so that 2.7 are far from what either of them takes.
    said = fit(boxes, tmp_path, 2048, 2800)
    assert "out of memory on cpu with a batch of 2048 patches" in said
    plan = Plan.load(tmp_path / "plan.json")
    assert plan.configurations["3d"].batch_size == 1024
    assert any("3d: batch size 2048 -> 1024, because memory ran out in fold 0" in change for change in plan.changes)
    # Run again, it is there: nothing is planned or trained anew.
    recipe = Recipe(folds=2, steps_per_epoch=2, validation_steps=1, schedule=Annealed(learning_rate=1e-2, epochs=1))
    run = Run(FitRequest(boxes, tmp_path, configurations=("3d",), recipe=recipe, workers=1), Listener())
    assert run.base_plan == plan
    assert is_trained(run, "3d", 0)


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
    recipe = Recipe(folds=2, steps_per_epoch=2, validation_steps=1, schedule=Annealed(learning_rate=1e-2, epochs=2))
    limits = Limits(voxel_budget=16**3, plane_voxels=2048, base_features=4, dataset_fraction=1.0)
    request = FitRequest(boxes, tmp_path, configurations=("3d",), recipe=recipe, limits=limits, workers=1)
    run = Run(request, Ear())
    plan = run.base_plan
    larger = plan.configurations["3d"].model_copy(update={"batch_size": 5})
    plan.model_copy(update={"configurations": {"3d": larger}}).save(tmp_path / "plan.json")

    run = Run(request, Ear(stop_in="fold 1"))
    train(run, "3d", 0)
    with pytest.raises(Stop):
        train(run, "3d", 1)
    _halve_batch(run, "3d", 1, "as if")
    ear = Ear()
    run = Run(request, ear)
    assert run.settings[0].configurations["3d"].batch_size == 2
    assert run.settings[0].changes[-1] == (
        "3d: batch size 5 -> 2, because memory ran out in fold 1; trained with 5: fold 0"
    )
    assert is_trained(run, "3d", 0)
    train(run, "3d", 1)
    assert "3d fold 1: goes on after epoch 1." in ear.told
    with pytest.raises(TrainingError, match="cannot be smaller"):
        _halve_batch(run, "3d", 1, "as if")

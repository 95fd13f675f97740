"""A fit whose batch does not fit into memory: a limit of the operating system, in a process of its own."""

import json
import subprocess
import sys

import pytest

from voxfit.planning.plan import Plan

SCRIPT = """
import resource, sys
import torch
from voxfit.core.errors import TrainingError
from voxfit.core.listening import Listener
from voxfit.learning import task as tasks
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
limits = Limits(voxel_budget=16**3, plane_voxels=2048, base_features=16, dataset_fraction=1.0)
request = FitRequest(sys.argv[1], sys.argv[2], configurations=("3d",), recipe=recipe, limits=limits, workers=1)
run = Run(request, Ear())
run.store(run.base_plan.grid("3d"))
if len(sys.argv) > 3:
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
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def fit(boxes, run, *limit):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(boxes), str(run), *map(str, limit)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="needs the limits of Linux")
def test_a_batch_that_does_not_fit_is_halved_and_recorded(boxes, tmp_path):
    said = fit(boxes, tmp_path, 128, 900)
    assert "out of memory on cpu with a batch of 128 patches" in said
    plan = Plan.load(tmp_path / "plan.json")
    assert plan.configurations["3d"].batch_size == 64
    assert any("3d: batch size 128 -> 64, because memory ran out in fold 0" in change for change in plan.changes)
    manifest = json.loads((tmp_path / "3d" / "fold_0" / "manifest.json").read_text())
    # Run again, it is there: nothing is planned or trained anew.
    assert "warning" not in fit(boxes, tmp_path)
    assert Plan.load(tmp_path / "plan.json") == plan
    assert json.loads((tmp_path / "3d" / "fold_0" / "manifest.json").read_text()) == manifest

"""`python -m benchmarks.rates`: what learning rates and AMSGrad do to a short training.

It writes a synthetic MR dataset, trains its 3D network (8 feature maps, batches of two) for a few hundred steps of an
annealed schedule with each setting, and prints a Markdown table of the last epoch. Patches and weights are the same.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RATES = (1e-3, 3e-3, 1e-2)
WIDTH, BATCH, EPOCH = 8, 2, 20
VALIDATED = 4
"""Cases, of 16."""


def main(arguments: list[str]) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rates", description=__doc__)
    parser.add_argument("--steps", type=int, default=200, help=f"of a training, a multiple of {EPOCH}")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = prepared(folder)
        print("| rate | AMSGrad | validation loss | " + " | ".join(item.name for item in plan.labels.classes) + " |")
        print("|---" * (3 + len(plan.labels.classes)) + "|")
        for rate in RATES:
            for amsgrad in (True, False):
                last = train(folder, plan, rate, amsgrad, options.steps // EPOCH)
                dice = " | ".join("-" if value is None else f"{value:.3f}" for value in last.class_dice)
                said = f"| {rate:g} | {'yes' if amsgrad else 'no'} | {last.validation_loss:.3f} | {dice} |"
                print(said, flush=True)


def prepared(folder: Path) -> Any:
    """The plan of the dataset, its patch as a budget of minutes makes it; and a store of the cases."""
    from voxfit.core.parallel import LocalExecutor
    from voxfit.core.progress import Listener
    from voxfit.imaging.dataset import Dataset
    from voxfit.imaging.phantom import write_phantom
    from voxfit.planning.plan import Plan
    from voxfit.running.budget import SMALLEST_PATCH
    from voxfit.running.cases import Destination, fill_stores

    write_phantom(folder / "data")
    line = [str(Path(sys.executable).parent / "voxfit"), "plan", str(folder / "data"), "-o", str(folder / "run")]
    subprocess.run([*line, "--limit", f"voxel_budget={SMALLEST_PATCH}"], check=True, stdout=subprocess.DEVNULL)
    plan = Plan.load(folder / "run" / "plan.json")
    narrow = plan.configurations["3d"].with_width(WIDTH).model_copy(update={"batch_size": BATCH})
    plan = plan.model_copy(update={"configurations": {"3d": narrow}})
    destination = Destination(plan.grid("3d"), folder / "store", "")
    destination.folder.mkdir()
    (manifest,) = fill_stores(Dataset.open(folder / "data"), [destination], Listener(), LocalExecutor(1))
    manifest.save(destination.folder / "manifest.json")
    return plan


def train(folder: Path, plan: Any, rate: float, amsgrad: bool, epochs: int) -> Any:
    """The report of the last epoch."""
    from voxfit.core.progress import EpochReport, Listener
    from voxfit.learning.task import TrainingTask
    from voxfit.learning.training import Training
    from voxfit.planning.recipes import Adam, PolynomialDecay, Recipe
    from voxfit.preprocessing.store import Store

    reports: list[EpochReport] = []

    class Hearing(Listener):
        """Keeps reports."""

        def epoch(self, report: EpochReport) -> None:
            reports.append(report)

    store = Store(folder / "store")
    names = tuple(sorted(store.manifest.voxels))
    task = TrainingTask(
        name="3d",
        labels=plan.labels,
        topology=plan.topology("3d"),
        configuration=plan.configurations["3d"],
        recipe=Recipe(
            steps_per_epoch=EPOCH,
            validation_steps=10,
            schedule=PolynomialDecay(learning_rate=rate, epochs=epochs),
            optimizer=Adam(amsgrad=amsgrad),
        ),
        training_cases=names[VALIDATED:],
        validation_cases=names[:VALIDATED],
        seed=0,
    )
    Training(task, store, folder / f"training_{rate:g}_{amsgrad}", "cpu", Hearing()).run()
    return reports[-1]


if __name__ == "__main__":
    main(sys.argv[1:])

"""`python -m benchmarks.prepare DATASET RUN WORKERS`: all of `voxfit fit` before its first training, by v2's rules."""

from __future__ import annotations

import sys
from pathlib import Path


def main(dataset: str, run: str, workers: str) -> None:
    """Check, measure, plan, and fill the stores of the 2D and the 3D model."""
    from voxfit.planning.recipes import recipe_named
    from voxfit.running.pipeline import Run
    from voxfit.running.request import FitRequest

    recipe = recipe_named("nnunet-v2")
    made = Run(FitRequest(dataset, Path(run), configurations=("2d", "3d"), recipe=recipe, workers=int(workers)))
    with made.workspace.lock():
        for name in made.configurations:
            made.store(made.base_plan.grid(name))


if __name__ == "__main__":
    main(*sys.argv[1:])

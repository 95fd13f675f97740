"""The demonstration: a synthetic dataset, from nothing to scored segmentations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from voxfit.assessment.evaluation import evaluate
from voxfit.assessment.scores import Scores
from voxfit.core.progress import Listener
from voxfit.imaging.dataset import Dataset
from voxfit.imaging.phantom import Flavour, write_phantom
from voxfit.inference.model import Model
from voxfit.planning.plan import Limits
from voxfit.planning.recipes import Recipe
from voxfit.running.fit import fit
from voxfit.running.prediction import predict_cases
from voxfit.running.request import FitRequest, FitResult

TEST_CASES = 4
STEPS_PER_EPOCH = 50


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration made: the fit, the scores of the test images, and where everything is."""

    fit: FitResult
    scores: Scores
    paths: dict[str, Path]


def run_demo(folder: Path, flavour: Flavour, epochs: int, device: str, listener: Listener) -> DemoResult:
    """Write a synthetic dataset, fit one fold of a narrow 3D model, segment and score the test images.

    Steps are counted, not seconds: whatever else runs on the machine, it learns as much.

    Args:
        folder: for everything.
        flavour: "mr" or "ct".
        epochs: of the training, `STEPS_PER_EPOCH` steps each.
        device: where to compute.
        listener: hears of the progress.
    """
    dataset, predictions = folder / f"dataset_{flavour}", folder / f"predictions_{flavour}"
    if len(list((dataset / "labelsTs").glob("*.nii.gz"))) < TEST_CASES:  # they are written last
        listener.stage(f"Writing a synthetic {flavour.upper()} dataset to {dataset}")
        write_phantom(dataset, flavour=flavour, test_cases=TEST_CASES)
    run = folder / f"run_{flavour}"
    request = FitRequest(
        dataset,
        run,
        configurations=("3d",),
        folds=(0,),
        recipe=Recipe(steps_per_epoch=STEPS_PER_EPOCH, validation_steps=5),
        epochs=epochs,
        limits=Limits(base_features=8),
        device=device,
    )
    fitted = fit(request, listener)
    cases = Dataset.open(dataset).test_cases
    listener.stage(f"Segmenting {len(cases)} test images")
    predict_cases(Model.open(run, device), cases, predictions, listener)
    scores = evaluate(predictions, dataset / "labelsTs", labels=Dataset.open(dataset).labels)
    scores.save(folder / f"scores_{flavour}.json")
    return DemoResult(
        fitted,
        scores,
        {
            "dataset": dataset,
            "run": run,
            "report": fitted.run / "report.html",
            "model": fitted.model,
            "predictions": predictions,
            "scores": folder / f"scores_{flavour}.json",
        },
    )

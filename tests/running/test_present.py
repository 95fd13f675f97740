"""What a model is made from."""

from dataclasses import replace
from pathlib import Path

import voxfit
from voxfit.assessment.selection import Candidate
from voxfit.planning.plan import Limits
from voxfit.planning.recipe import Recipe
from voxfit.running.pipeline import Run
from voxfit.running.present import FoldManifest, Present, model_origin

WINNER = Candidate(name="3d", configurations=("3d",), foreground_dice=0.5, label_dice={}, cases=6)


def origin_of_trained(present: Present) -> str:
    """Of the model of all folds, with their trainings noted as finished."""
    for fold in present.fold_numbers:
        FoldManifest(
            made_from=present.fold_origin("3d", fold),
            epochs=1,
            seconds=1.0,
            validation_cases=present.folds.validation[fold],
        ).save(present.fold_folder("3d", fold) / "manifest.json")
    return model_origin(present, WINNER)


def test_other_weights_with_the_same_scores_are_another_model(boxes: Path, tmp_path: Path) -> None:
    limits = Limits(voxel_budget=16**3, plane_voxels=2048, base_features=4, cascade_factor=100)
    request = voxfit.FitRequest(boxes, tmp_path, recipe=Recipe(folds=2), limits=limits, workers=1)
    run = Run(request)
    present = run.presently(run.base_plan, request.recipe)
    first = origin_of_trained(present)
    assert origin_of_trained(replace(present, files="edited")) != first
    assert origin_of_trained(present) == first

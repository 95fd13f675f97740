"""What a model is made from."""

from dataclasses import replace
from pathlib import Path

import voxfit
from builders.steps import begin
from voxfit.assessment.selection import Candidate
from voxfit.planning.plan import Limits
from voxfit.planning.recipes import Recipe

WINNER = Candidate(name="3d", configurations=("3d",), foreground_dice=0.5, label_dice={}, cases=6)


def test_other_weights_with_the_same_scores_are_another_model(boxes: Path, tmp_path: Path) -> None:
    limits = Limits(voxel_budget=16**3, plane_voxels=2048, base_features=4, cascade_factor=100)
    request = voxfit.FitRequest(boxes, tmp_path, recipe=Recipe(folds=2), limits=limits, workers=1)
    experiment = begin(request).plain()
    first = experiment.model_digest(WINNER, {"3d": (0, 1)})
    assert replace(experiment, files="edited").model_digest(WINNER, {"3d": (0, 1)}) != first
    assert experiment.model_digest(WINNER, {"3d": (0,)}) != first
    assert begin(request).plain().model_digest(WINNER, {"3d": (0, 1)}) == first

"""The two commands that are killed: a small `fit`, and a `predict` of many small images with its model."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from synthetic import write_boxes

LIMITS = ("voxel_budget=4096", "plane_voxels=2048", "base_features=4", "cascade_factor=100")


@dataclass(frozen=True)
class Command:
    """One of them.

    Attributes:
        name: fit or predict.
        arguments: before the option of the output folder.
    """

    name: str
    arguments: tuple[str, ...]

    def into(self, folder):
        """All arguments, for an output folder."""
        return [*self.arguments, "-o", str(folder)]

    def stage(self, folder):
        """What an interrupted command was at, by what its folder holds."""
        return _fit_stage(folder) if self.name == "fit" else f"{len(list(folder.glob('*.nii.gz')))} images segmented"


def write_inputs(folder, images, folds, steps, epochs):
    """The dataset and the recipe; returns the arguments of `fit`."""
    data = write_boxes(folder / "boxes", cases=2 * folds, test_cases=images)
    recipe = folder / "recipe.json"
    body = {"schema": "voxfit.recipe/2", "folds": folds, "steps_per_epoch": steps, "validation_steps": 1}
    recipe.write_text(json.dumps(body))
    limits = [part for limit in LIMITS for part in ("--limit", limit)]
    return (
        "fit", str(data), "--configurations", "2d,3d", "--epochs", str(epochs), "--recipe", str(recipe), *limits,
        "--device", "cpu", "--workers", "2",
    )  # fmt: skip


def checkpoints(folder):
    """Of unfinished trainings, the newest last."""
    found = folder.glob("*/fold_*.part-*/checkpoint/**/[!.]*.safetensors")
    return sorted(found, key=lambda path: path.stat().st_mtime_ns)


def _fit_stage(folder):
    for name, stage in (
        ("dataset.json", "start"),
        ("fingerprint.json", "check and measure"),
        ("plan.json", "plan"),
        ("store/*/manifest.json", "prepare"),
        ("folds.json", "split"),
        ("training.json", "settings"),
    ):
        if not list(folder.glob(name)):
            return stage
    for name in ("2d", "3d"):
        if not (folder / name / "cross_validation" / "scores.json").exists():
            done = len(list(folder.glob(f"{name}/fold_[0-9]/manifest.json")))
            if begun := sorted(folder.glob(f"{name}/fold_*.part-*/history.jsonl")):
                epochs = len(begun[-1].read_text().splitlines())
                return f"train {name} {begun[-1].parent.name.partition('.')[0]}, {epochs} epochs"
            if list(folder.glob(f"{name}/cross_validation/fold_*.part-*")):
                return f"cross-validate {name}"
            folds = json.loads((folder / "folds.json").read_text())["validation"]
            return f"train {name} fold_{done}" if done < len(folds) else f"cross-validate {name}"
    for name, stage in (
        ("ensembles/2d+3d/manifest.json", "score the pair"),
        ("selection.json", "select"),
        ("model/model.json", "assemble"),
        ("report.html", "report"),
    ):
        if not (folder / name).exists():
            return stage
    return "finished"

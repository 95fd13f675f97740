"""Where everything of a run folder lies: each path is spelled here, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_FOLD = re.compile(r"fold_(\d+)(?:\.part-\w+)?")


@dataclass(frozen=True)
class FoldLayout:
    """A training: `weights.safetensors` and `manifest.json` are there once it is finished."""

    root: Path

    @property
    def weights(self) -> Path:
        """Of the network for inference."""
        return self.root / "weights.safetensors"

    @property
    def manifest(self) -> Path:
        """What it was made from, and how long it took."""
        return self.root / MANIFEST

    @property
    def history(self) -> Path:
        """A line for each epoch."""
        return self.root / "history.jsonl"

    @property
    def step_mode(self) -> Path:
        """How its steps are executed."""
        return self.root / "execution.json"

    @property
    def given(self) -> Path:
        """The time that a budget gave it when it began."""
        return self.checkpoints / "begun.json"

    @property
    def checkpoints(self) -> Path:
        """There while it is unfinished."""
        return self.root / "checkpoint"


@dataclass(frozen=True)
class ValidationLayout:
    """A cross-validation: label maps and scores of cases that were not trained on."""

    root: Path

    @property
    def manifest(self) -> Path:
        """What it was made from."""
        return self.root / MANIFEST

    @property
    def scores(self) -> Path:
        """Of its label maps."""
        return self.root / "scores.json"

    @property
    def scores_without_tta(self) -> Path:
        """Of those without test-time augmentation, which are not kept."""
        return self.root / "scores_without_tta.json"

    def label(self, case: str) -> Path:
        """The segmentation of a case, on the grid of its image."""
        return self.root / f"{case}.nii.gz"

    def probabilities(self, case: str) -> Path:
        """(output, z, y, x) float16 on the prepared grid; kept where ensembles need it."""
        return self.root / PROBABILITIES / f"{case}.npy"

    def cascade_input(self, case: str) -> Path:
        """(z, y, x) class indices on the grid of the cascade's second stage; kept where one follows."""
        return self.root / CASCADE_INPUT / f"{case}.npy"


MANIFEST = "manifest.json"
PROBABILITIES = "probabilities"
CASCADE_INPUT = "cascade_input"


@dataclass(frozen=True)
class Layout:
    """The paths of a run folder.

    Attributes:
        root: the folder.
    """

    root: Path

    @property
    def command(self) -> Path:
        """The options of the last `fit`."""
        return self.root / "command.json"

    @property
    def asked_recipe(self) -> Path:
        """The recipe of the last `fit`, where it is one without a name."""
        return self.root / "recipe_asked.json"

    @property
    def dataset(self) -> Path:
        """Where the dataset is, and its training cases."""
        return self.root / "dataset.json"

    @property
    def fingerprint(self) -> Path:
        """The measured facts."""
        return self.root / "fingerprint.json"

    @property
    def folds(self) -> Path:
        """The split of the training cases."""
        return self.root / "folds.json"

    @property
    def plan(self) -> Path:
        """What the rules say of the dataset, and a user's changes."""
        return self.root / "plan.json"

    @property
    def training(self) -> Path:
        """Plan and recipe of the trainings, after budget and memory."""
        return self.root / "training.json"

    @property
    def selection(self) -> Path:
        """All candidates and the choice."""
        return self.root / "selection.json"

    @property
    def model(self) -> Path:
        """The self-contained model."""
        return self.root / "model"

    @property
    def report(self) -> Path:
        """The page about the run."""
        return self.root / "report.html"

    @property
    def superseded(self) -> Path:
        """What no longer fits, below a folder for each time that something was set aside."""
        return self.root / "superseded"

    def store(self, grid: str) -> Path:
        """The training cases prepared for a grid."""
        return self.root / "store" / grid

    def fold(self, configuration: str, fold: int) -> FoldLayout:
        """A finished training."""
        return FoldLayout(self.root / configuration / f"fold_{fold}")

    def validation(self, configuration: str, fold: int) -> ValidationLayout:
        """The cross-validation of a configuration by one fold."""
        return ValidationLayout(self.root / configuration / "cross_validation" / f"fold_{fold}")

    def validations(self, configuration: str) -> list[Path]:
        """The folders of all cross-validations of a configuration that are there."""
        found = sorted(self.root.glob(f"{configuration}/cross_validation/fold_*"))
        return [path for path in found if ".part-" not in path.name]

    def scores(self, configuration: str) -> Path:
        """Of the cross-validation of a configuration, all its folds together."""
        return self.root / configuration / "cross_validation" / "scores.json"

    def scores_without_tta(self, configuration: str) -> Path:
        """The same without test-time augmentation."""
        return self.root / configuration / "cross_validation" / "scores_without_tta.json"

    def ensemble(self, configurations: Sequence[str]) -> ValidationLayout:
        """The cross-validation of an ensemble."""
        return ValidationLayout(self.root / "ensembles" / "+".join(configurations))

    def trainings(self, configuration: str) -> dict[int, FoldLayout]:
        """Every training of a configuration that is there, by fold: the finished one, else the unfinished of last."""
        found: dict[int, FoldLayout] = {}
        folders = [path for path in self.root.glob(f"{configuration}/fold_*") if _FOLD.fullmatch(path.name)]
        for path in sorted(folders, key=lambda path: (".part-" not in path.name, path.stat().st_mtime)):
            match = _FOLD.fullmatch(path.name)
            if match and path.is_dir():
                found[int(match[1])] = FoldLayout(path)
        return dict(sorted(found.items()))

    def segmentations(self, name: str) -> dict[str, Path]:
        """The label maps of a cross-validation that are there, by case; `name` is of a candidate."""
        rooms = [self.root / "ensembles" / name] if "+" in name else self.validations(name)
        maps = [path for room in rooms for path in room.glob("*.nii.gz")]
        return {path.name.removesuffix(".nii.gz"): path for path in maps}

    def all_scores(self) -> dict[str, Path]:
        """The scores of every candidate that is there, by name."""
        single = {path.parent.parent.name: path for path in sorted(self.root.glob("*/cross_validation/scores.json"))}
        several = {path.parent.name: path for path in sorted(self.root.glob("ensembles/*/scores.json"))}
        return single | {name: path for name, path in several.items() if ".part-" not in name}


def part_of(path: Path, inputs: str) -> Path:
    """Where an artefact is built before it gets its name."""
    return path.with_name(f"{path.name}.part-{inputs}")

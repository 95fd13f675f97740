"""What a run folder holds: every file is optional but the plan, and what cannot be read is noted."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar, get_args

from voxfit.assessment.scores import CaseScores, LabelScores, Scores
from voxfit.assessment.selection import Candidate, Selection
from voxfit.core.errors import RecordError, WorkspaceError
from voxfit.core.layout import FoldLayout, Layout
from voxfit.core.records import Record, read_json
from voxfit.planning.fingerprint import Fingerprint
from voxfit.planning.folds import Folds
from voxfit.planning.plan import ConfigurationName, Plan
from voxfit.planning.recipes import Recipe
from voxfit.planning.settings import Settings

AnyRecord = TypeVar("AnyRecord", bound=Record)


@dataclass(frozen=True)
class FoldTraining:
    """One training: the epochs of its history, and what its manifest says (empty while it is unfinished)."""

    epochs: list[dict[str, object]]
    manifest: dict[str, object]

    @property
    def steps(self) -> int:
        """Training steps, as far as the history says."""
        return sum(step for epoch in self.epochs if isinstance(step := epoch.get("steps"), int))


@dataclass(frozen=True)
class Findings:
    """What was found in a run folder: records, trainings by configuration and fold, scores by candidate.

    `notes` names what was not there or could not be read.
    """

    run: Path
    plan: Plan
    recipe: Recipe | None
    fingerprint: Fingerprint | None
    folds: Folds | None
    selection: Selection | None
    trainings: dict[str, dict[int, FoldTraining]]
    scores: dict[str, Scores]
    notes: list[str]

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Of the selection, or before there is one, what has been scored."""
        if self.selection:
            return self.selection.candidates
        return tuple(
            Candidate(
                name=name,
                configurations=tuple(name.split("+")),
                foreground_dice=scores.mean.foreground_dice,
                label_dice={label: mean.dice for label, mean in scores.mean.labels.items()},
                cases=len(scores.cases),
            )
            for name, scores in self.scores.items()
        )

    @property
    def shown(self) -> str:
        """The candidate that the page is about: the chosen, or before there is one the best so far."""
        if self.selection:
            return self.selection.chosen
        return max(self.candidates, key=lambda item: item.foreground_dice or 0.0).name if self.scores else ""

    @cached_property
    def cases(self) -> tuple[CaseScores, ...]:
        """The cases of that candidate, from the worst to the best, those without a score last."""
        found = self.scores.get(self.shown)
        order = {case.name: dice for case in found.cases if (dice := case_dice(case)) is not None} if found else {}
        return tuple(sorted(found.cases, key=lambda case: (order.get(case.name, 2.0), case.name))) if found else ()

    @cached_property
    def _segmentations(self) -> dict[str, Path]:
        return self.layout.segmentations(self.shown) if self.shown else {}

    def segmentation(self, case: str) -> Path:
        """Its label map of a case; where that is not there, a path that says so."""
        return self._segmentations.get(case, self.run / self.shown / f"{case}.nii.gz")

    @property
    def layout(self) -> Layout:
        """The paths of the run."""
        return Layout(self.run)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels that were scored."""
        return self.scores[self.shown].labels if self.shown in self.scores else self.plan.labels.names

    def finished_folds(self) -> list[int]:
        """Folds that were trained for every configuration of the shown candidate, and scored."""
        scored = {case.name for case in self.cases}
        # A fold that was trained with another plan may be there too.
        used = {fold for fold, names in enumerate(self.folds.validation) if scored & {*names}} if self.folds else None
        each = [
            {fold for fold, training in self.trainings.get(name, {}).items() if training.manifest}
            for name in self.shown.split("+")
        ]
        both = set.intersection(*each) if self.shown else set[int]()
        return sorted(both if used is None else both & used)


def read_run(run: Path) -> Findings:
    """Collect everything from a run folder.

    Raises:
        WorkspaceError: it is no run folder.
        RecordError: the plan cannot be read.
    """
    layout = Layout(run)
    if not layout.plan.is_file():
        raise WorkspaceError(f"{run}: is no run folder (it has no plan.json). `voxfit fit DATASET -o {run}` makes one.")
    notes: list[str] = []
    settings = _load(layout, layout.training, Settings, notes)
    return Findings(
        run=run,
        plan=settings.plan if settings else Plan.load(layout.plan),
        recipe=settings.recipe if settings else None,
        fingerprint=_load(layout, layout.fingerprint, Fingerprint, notes),
        folds=_load(layout, layout.folds, Folds, notes),
        selection=_load(layout, layout.selection, Selection, notes),
        trainings=_read_trainings(layout, notes),
        scores=_read_scores(layout, notes),
        notes=notes,
    )


def _load(layout: Layout, path: Path, kind: type[AnyRecord], notes: list[str]) -> AnyRecord | None:
    try:
        return kind.load(path)
    except RecordError as error:
        notes.append(str(error).replace(f"{path}", f"{path.relative_to(layout.root)}"))
        return None


def _read_scores(layout: Layout, notes: list[str]) -> dict[str, Scores]:
    found = {name: _load(layout, path, Scores, notes) for name, path in layout.all_scores().items()}
    return {name: scores for name, scores in found.items() if scores}


def _read_trainings(layout: Layout, notes: list[str]) -> dict[str, dict[int, FoldTraining]]:
    return {
        name: {fold: _read_fold(f"{name} fold {fold}", place, notes) for fold, place in found.items()}
        for name in get_args(ConfigurationName)
        if (found := layout.trainings(name))
    }


def _read_fold(title: str, place: FoldLayout, notes: list[str]) -> FoldTraining:
    manifest: dict[str, object] = {}
    epochs: list[dict[str, object]] = []
    try:
        if place.manifest.is_file():
            found = read_json(place.manifest)
            manifest = found if isinstance(found, dict) else {}
        for line in place.history.read_text(encoding="utf-8").splitlines():
            epoch = json.loads(line)
            epochs += [epoch] if isinstance(epoch, dict) else []
    except (RecordError, OSError, ValueError) as error:  # the last line of a running training may be half written
        notes.append(f"{title}: history or manifest cannot be read to the end ({type(error).__name__}).")
    return FoldTraining(epochs, manifest)


def case_dice(case: CaseScores) -> float | None:
    """Mean over the labels that have a value."""
    found = [item.dice for item in case.labels.values() if item.dice is not None]
    return statistics.fmean(found) if found else None


_EMPTY = LabelScores(
    dice=None,
    hausdorff_95_mm=None,
    surface_dice=None,
    reference_voxels=0,
    predicted_voxels=0,
    reference_ml=0.0,
    predicted_ml=0.0,
)


def scores_of(case: CaseScores, label: str) -> LabelScores:
    """The scores of a label; empty where it was not scored."""
    return case.labels.get(label, _EMPTY)

"""Cross-validation of a run: every case predicted by the fold that did not see it, scored on its own grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from voxfit.assessment.evaluation import evaluate_files
from voxfit.assessment.scores import Scores
from voxfit.assessment.selection import Candidate
from voxfit.assessment.selection import pairs as ensembles
from voxfit.core.durability import save_array
from voxfit.core.records import Record, digest_of
from voxfit.imaging.volume import write_label
from voxfit.inference.cascade import upsampled, with_previous
from voxfit.inference.model import load_network, make_predictor
from voxfit.inference.postprocessing import Part, segment, to_values
from voxfit.planning.plan import ConfigurationName, Plan
from voxfit.running.folds import fold_folder, fold_origin, previous_stage

if TYPE_CHECKING:
    from voxfit.running.pipeline import Run

TOLERANCE_MM = 1.0


class ValidationManifest(Record):
    """What a cross-validation was made from."""

    schema_name: ClassVar[str] = "voxfit.cross_validation/1"
    made_from: str


def cross_validate(run: Run, name: ConfigurationName) -> Scores:
    """Out-of-fold segmentations and scores of one configuration, in `NAME/cross_validation/`.

    Beside them, as `.npy` on prepared grids: `probabilities/` (float16) where ensembles will need them, and
    `next_stage/` (class indices) where a cascade goes on from here.
    """
    plan, _ = run.settings
    folder = run.root / name / "cross_validation"
    origin = _origin(run, (name,))
    extras = _extras(run, name)
    if _is_made_from(folder, origin) and all((folder / extra).is_dir() for extra in extras):
        return Scores.load(folder / "scores.json")
    run.listener.stage(f"Cross-validating {name}")
    store = run.store(plan.grid(name))
    cases = [(fold, case) for fold in run.folds_of(name) for case in run.folds.validation[fold]]
    before = previous_stage(run, name)
    with run.workspace.building(folder, origin) as part:
        for extra in extras:
            (part / extra).mkdir(exist_ok=True)
        predictor, loaded = None, -1
        for index, (fold, case) in enumerate(cases):
            if (part / f"{case}.nii.gz").exists() and all((part / extra / f"{case}.npy").exists() for extra in extras):
                continue
            if predictor is None or fold != loaded:
                weights = fold_folder(run, name, fold) / "weights.safetensors"
                predictor, loaded = make_predictor(plan, name, [load_network(plan, name, weights)], run.device), fold
            image = np.asarray(store.image(case))
            if before:
                image = with_previous(image, before.segmentation(case), before.classes)
            probabilities = predictor.predict(image)
            if "probabilities" in extras:
                save_array(part / "probabilities" / f"{case}.npy", probabilities.astype(np.float16))
            if "next_stage" in extras:
                save_array(part / "next_stage" / f"{case}.npy", _next_segmentation(run, name, case, probabilities))
            _write(part, case, [(probabilities, store.manifest.placements[case])], plan)
            run.listener.progress(index + 1, len(cases))
        return _score(run, part, origin, [case for _, case in cases])


def _extras(run: Run, name: ConfigurationName) -> list[str]:
    """What is kept beside the label maps."""
    plan, _ = run.settings
    paired = any(name in pair for pair in ensembles(run.configurations))
    staged = any(plan.configurations[other].previous == name for other in run.configurations)
    return ["probabilities"] * paired + ["next_stage"] * staged


def _next_segmentation(
    run: Run, name: ConfigurationName, case: str, probabilities: NDArray[np.float32]
) -> NDArray[np.int16]:
    """The segmentation of a case on the grid of the stage after a configuration."""
    plan, _ = run.settings
    after = next(other for other in run.configurations if plan.configurations[other].previous == name)
    shape = run.store(plan.grid(after)).manifest.placements[case].shape
    return upsampled(probabilities, shape, plan.labels, logits=plan.inference.averages == "logits")


def candidates(run: Run) -> list[Candidate]:
    """Every cross-validated configuration, and every pair of them, with its scores."""
    found = [
        _candidate((name,), Scores.load(run.root / name / "cross_validation" / "scores.json"))
        for name in run.configurations
    ]
    found.extend(_candidate(pair, _score_pair(run, pair)) for pair in ensembles(run.configurations))
    return found


def _score_pair(run: Run, names: tuple[str, str]) -> Scores:
    """Score the mean of the stored probabilities of two configurations."""
    plan, _ = run.settings
    folder = run.root / "ensembles" / "+".join(names)
    origin = _origin(run, names)
    if _is_made_from(folder, origin):
        return Scores.load(folder / "scores.json")
    run.listener.stage(f"Scoring the ensemble {'+'.join(names)}")
    members: list[ConfigurationName] = [name for name in run.configurations if name in names]
    stores = {name: run.store(plan.grid(name)) for name in members}
    cases = [case for fold in run.fold_numbers for case in run.folds.validation[fold]]
    with run.workspace.building(folder, origin) as part:
        for index, case in enumerate(cases):
            parts: list[Part] = []
            for name in members:
                file = run.root / name / "cross_validation" / "probabilities" / f"{case}.npy"
                parts.append((np.load(file).astype(np.float32), stores[name].manifest.placements[case]))
            _write(part, case, parts, plan)
            run.listener.progress(index + 1, len(cases))
        return _score(run, part, origin, cases)


def _write(folder: Path, case: str, parts: Sequence[Part], plan: Plan) -> None:
    """From what networks said to a label file, exactly as prediction does it."""
    values = to_values(segment(parts, plan), plan.labels.values)
    write_label(folder / f"{case}.nii.gz", values, parts[0][1].geometry)


def _score(run: Run, folder: Path, origin: str, cases: Sequence[str]) -> Scores:
    validated = set(cases)
    pairs = {
        case.name: (folder / f"{case.name}.nii.gz", Path(case.label or ""))
        for case in run.dataset.cases
        if case.name in validated
    }
    scores = evaluate_files(pairs, run.dataset.labels, tolerance_mm=TOLERANCE_MM, workers=run.request.workers)
    scores.save(folder / "scores.json")
    ValidationManifest(made_from=origin).save(folder / "manifest.json")
    return scores


def _origin(run: Run, names: tuple[str, ...]) -> str:
    plan, _ = run.settings
    folds = [
        fold_origin(run, name, fold) for name in run.configurations if name in names for fold in run.folds_of(name)
    ]
    return digest_of([folds, TOLERANCE_MM, plan.inference.digest(), plan.single_component_labels])


def _is_made_from(folder: Path, origin: str) -> bool:
    path = folder / "manifest.json"
    return path.exists() and ValidationManifest.load(path).made_from == origin


def _candidate(names: tuple[str, ...], scores: Scores) -> Candidate:
    return Candidate(
        name="+".join(names),
        configurations=names,
        foreground_dice=scores.mean.foreground_dice,
        label_dice={name: mean.dice for name, mean in scores.mean.labels.items()},
        cases=len(scores.cases),
    )

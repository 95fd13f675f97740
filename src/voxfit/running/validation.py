"""Cross-validation of a run: every case predicted by the fold that did not see it, scored on its own grid."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from voxfit.assessment.evaluation import evaluate_files
from voxfit.assessment.scores import Scores, missed_in, summarize
from voxfit.assessment.selection import Candidate
from voxfit.assessment.selection import pairs as ensembles
from voxfit.core.durability import open_array, save_array
from voxfit.imaging.volume import write_label
from voxfit.inference.cascade import upsampled
from voxfit.inference.postprocessing import keep_largest_components, segment, to_values
from voxfit.inference.predictor import NetworkInput, Predictor
from voxfit.inference.torch_networks import load_network, torch_predictor
from voxfit.planning.plan import ConfigurationName, Plan
from voxfit.preprocessing.regridding import Computed, Source
from voxfit.preprocessing.restoring import Part, restore
from voxfit.running.folds import previous_stage
from voxfit.running.present import TOLERANCE_MM, ValidationManifest, candidates_of, eligible

if TYPE_CHECKING:
    from voxfit.running.pipeline import Run


def cross_validate(run: Run, name: ConfigurationName) -> Scores:
    """Out-of-fold segmentations and scores of one configuration, in `NAME/cross_validation/`, by all its trained folds.

    Beside them, as `.npy` on prepared grids: `probabilities/` (float16) where ensembles will need them, and
    `next_stage/` (class indices) where a cascade goes on from here. `plain.json` are the scores without mirroring.
    """
    (plan, _), present = run.settings, run.present
    folder, origin = present.validation_folder((name,)), present.validation_origin((name,))
    extras = _extras(run, name)
    if present.is_validated((name,)) and all((folder / extra).is_dir() for extra in extras):
        return Scores.load(folder / "scores.json")
    run.listener.stage(f"Cross-validating {name}")
    store = run.store(plan.grid(name))
    cases = [(fold, case) for fold in present.trained(name) for case in run.folds.validation[fold]]
    before = previous_stage(run, name)
    with run.workspace.building(folder, origin) as part:
        for extra in (*extras, "plain"):
            (part / extra).mkdir(exist_ok=True)
        predictor, loaded = None, -1
        for index, (fold, case) in enumerate(cases):
            if (part / f"{case}.nii.gz").exists() and all((part / extra / f"{case}.npy").exists() for extra in extras):
                continue
            if predictor is None or fold != loaded:
                network = load_network(plan, name, present.fold_folder(name, fold) / "weights.safetensors")
                predictor, loaded = torch_predictor(plan, name, [network], run.device, plain_too=True), fold
            previous = before.segmentation(case) if before else None
            seen = NetworkInput(np.asarray(store.image(case)), previous, before.classes if before else 0)
            _validate(run, name, case, predictor, seen, part)
            run.listener.progress(index + 1, len(cases))
        names = [case for _, case in cases]
        if not (part / "plain.json").exists():  # a run that was killed from here on has no maps to score again
            _evaluate(run, part / "plain", names, surface=False).save(part / "plain.json")
        shutil.rmtree(part / "plain")
        return _score(run, part, origin, names)


def _validate(
    run: Run, name: ConfigurationName, case: str, predictor: Predictor, seen: NetworkInput, folder: Path
) -> None:
    """Segment one case, with and without mirroring; its own label file comes last and says that all is there."""
    plan, _ = run.settings
    placement = run.store(plan.grid(name)).placement(case)
    source: Source = predictor.source(seen)
    extras = _extras(run, name)
    if extras:  # all that the network says is needed anyway
        values = predictor.predict(seen)
        source, mirrored = Computed(values), Computed(values[: plan.labels.outputs])
        if "probabilities" in extras:
            save_array(folder / "probabilities" / f"{case}.npy", mirrored.values.astype(np.float16))
        if "next_stage" in extras:
            save_array(folder / "next_stage" / f"{case}.npy", _next_segmentation(run, name, case, mirrored))
    both = restore([(source, placement)], partial(_decide_both, plan=plan))
    for place, indices in zip((folder / "plain", folder), np.divmod(both, plan.labels.count), strict=True):
        found = keep_largest_components(indices, plan.single_component_labels)
        label = to_values(found, plan.labels.values)
        write_label(place / f"{case}.nii.gz", label, placement.geometry, like=_image_of(run, case))


def _image_of(run: Run, name: str) -> Path:
    return next(Path(case.images[0]) for case in run.dataset.cases if case.name == name)


def _decide_both(values: NDArray[np.float32], plan: Plan) -> NDArray[np.integer[Any]]:
    """Class indices with mirroring, plus (number of classes) x those without."""
    logits = plan.inference.averages == "logits"
    mirrored, plain = (plan.labels.decide(half, logits=logits).astype(np.uint32) for half in np.split(values, 2))
    return mirrored + plan.labels.count * plain


def _extras(run: Run, name: ConfigurationName) -> list[str]:
    """What is kept beside the label maps."""
    plan, _ = run.settings
    paired = any(name in pair for pair in ensembles(run.configurations))
    staged = any(plan.configurations[other].previous == name for other in run.configurations)
    return ["probabilities"] * paired + ["next_stage"] * staged


def _next_segmentation(run: Run, name: ConfigurationName, case: str, source: Source) -> NDArray[np.int16]:
    """The segmentation of a case on the grid of the stage after a configuration."""
    plan, _ = run.settings
    after = next(other for other in run.configurations if plan.configurations[other].previous == name)
    return upsampled(source, run.store(plan.grid(after)).placement(case).shape, plan, after)


def candidates(run: Run) -> list[Candidate]:
    """Every cross-validated configuration, and every pair of them, with its scores.

    Those that may be chosen are compared on the same cases: of the folds that are trained for all of them.
    """
    rivals, found = eligible(run.configurations), []
    compared = {case for fold in run.present.shared_folds(rivals) for case in run.folds.validation[fold]}
    for names in candidates_of(run.configurations):
        scores = _score_pair(run, names) if len(names) > 1 else Scores.load(_scores(run, names))
        found.append(_candidate(run, names, scores, compared if {*names} <= {*rivals} else None))
    return found


def _scores(run: Run, names: Sequence[str]) -> Path:
    return run.present.validation_folder(names) / "scores.json"


def _score_pair(run: Run, names: Sequence[ConfigurationName]) -> Scores:
    """Score the mean of the stored probabilities of two configurations."""
    (plan, _), present = run.settings, run.present
    folder, origin = present.validation_folder(names), present.validation_origin(names)
    if present.is_validated(names):
        return Scores.load(folder / "scores.json")
    run.listener.stage(f"Scoring the ensemble {'+'.join(names)}")
    stores = {name: run.store(plan.grid(name)) for name in names}
    cases = [case for fold in present.shared_folds(names) for case in run.folds.validation[fold]]
    with run.workspace.building(folder, origin) as part:
        for index, case in enumerate(cases):
            parts: list[Part] = []
            for name in names:
                file = run.root / name / "cross_validation" / "probabilities" / f"{case}.npy"
                again = f"Delete the folder {file.parent.parent}; `fit` makes it again."
                values = open_array(file, again).astype(np.float32)
                parts.append((Computed(values), stores[name].placement(case)))
            found = to_values(segment(parts, plan), plan.labels.values)
            write_label(part / f"{case}.nii.gz", found, parts[0][1].geometry, like=_image_of(run, case))
            run.listener.progress(index + 1, len(cases))
        return _score(run, part, origin, cases)


def _score(run: Run, folder: Path, origin: str, cases: Sequence[str]) -> Scores:
    scores = _evaluate(run, folder, cases)
    scores.save(folder / "scores.json")
    ValidationManifest(made_from=origin).save(folder / "manifest.json")
    return scores


def _evaluate(run: Run, folder: Path, cases: Sequence[str], *, surface: bool = True) -> Scores:
    """Scores of the label maps in a folder."""
    validated = set(cases)
    pairs = {
        case.name: (folder / f"{case.name}.nii.gz", Path(case.label or ""))
        for case in run.dataset.cases
        if case.name in validated
    }
    labels, workers = run.dataset.labels, run.request.workers
    return evaluate_files(pairs, labels, tolerance_mm=TOLERANCE_MM, workers=workers, surface=surface)


def _candidate(run: Run, names: Sequence[str], scores: Scores, compared: Collection[str] | None) -> Candidate:
    """A candidate with its scores, on some of the cases or on all."""
    cases = [case for case in scores.cases if compared is None or case.name in compared]
    if len(cases) < len(scores.cases):
        scores = summarize(cases, run.dataset.labels, scores.tolerance_mm)
    return Candidate(
        name="+".join(names),
        configurations=tuple(names),
        foreground_dice=scores.mean.foreground_dice,
        label_dice={name: mean.dice for name, mean in scores.mean.labels.items()},
        cases=len(cases),
        missed={name: missed_in(cases, name) for name in scores.labels},
    )

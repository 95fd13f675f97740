"""Which model or ensemble is used: ensembles are scored, and all candidates compared (method.md [I5])."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from voxfit.assessment.scores import Scores, missed_in, summarize
from voxfit.assessment.selection import Candidate, Selection, choose
from voxfit.core.layout import ValidationLayout
from voxfit.imaging.dataset import Dataset
from voxfit.inference.postprocessing import segment
from voxfit.planning.plan import ConfigurationName
from voxfit.preprocessing.output_resampling import Computed
from voxfit.preprocessing.reverting import Part
from voxfit.running.artefacts import ValidationManifest, ensemble_artefact
from voxfit.running.experiment import Experiment, Trained, candidates_of, eligible, shared
from voxfit.running.run_folder import Artefact, RunFolder
from voxfit.running.validation import OutOfFold, Validation


def validate_ensemble(
    run: RunFolder, experiment: Experiment, members: Sequence[OutOfFold], folds: Sequence[int], common: Validation
) -> Scores:
    """Scores of the mean of the probabilities of two configurations, by the folds that both have.

    Args:
        run: keeps them.
        experiment: what determines them.
        members: what each says.
        folds: that are trained for all of them.
        common: what all cross-validations have in common.
    """
    names = [member.configuration for member in members]
    cases = [case for fold in folds for case in experiment.folds.validation[fold]]

    def fill(folder: Path) -> ValidationManifest:
        run.listener.stage(f"Scoring the ensemble {'+'.join(names)}")
        part = ValidationLayout(folder)
        for index, case in enumerate(cases):
            said: list[Part] = [
                (Computed(member.probabilities(case)), common.stores[member.configuration].placement(case))
                for member in members
            ]
            common.write(part.label(case), segment(said, common.plan), case, said[0][1].geometry)
            run.listener.progress(index + 1, len(cases))
        common.evaluate(part, cases).save(part.scores)
        return ValidationManifest()

    run.obtain(ensemble_artefact(run.layout, experiment, names, folds), fill)
    return Scores.load(run.layout.ensemble(names).scores)


def select(
    run: RunFolder,
    experiment: Experiment,
    found: Mapping[ConfigurationName, OutOfFold],
    trained: Trained,
    common: Validation,
) -> Selection:
    """Every cross-validated configuration and every pair of them with its scores, and the choice [I5].

    Those that may be chosen are compared on the same cases: of the folds that are trained for all of them.

    Args:
        run: keeps the choice, and what ensembles say.
        experiment: what determines them.
        found: what each configuration says.
        trained: their folds.
        common: what all cross-validations have in common.
    """
    rivals = eligible([*found])
    compared = shared(trained, rivals)
    cases = {case for fold in compared for case in experiment.folds.validation[fold]}
    candidates = []
    for names in candidates_of([*found]):
        if len(names) == 1:
            scores = found[names[0]].scores
        else:
            members = [found[name] for name in names]
            scores = validate_ensemble(run, experiment, members, shared(trained, names), common)
        candidates.append(_candidate(names, scores, cases if {*names} <= {*rivals} else None, common.dataset))
    inputs, folds = experiment.selection_digest(trained), (len(compared), len(experiment.fold_numbers))
    artefact = Artefact(run.layout.selection, inputs, Selection)
    return run.obtain(artefact, lambda _: choose(candidates, inputs, folds))


def _candidate(names: Sequence[str], scores: Scores, compared: Collection[str] | None, dataset: Dataset) -> Candidate:
    """A candidate with its scores, on some of the cases or on all."""
    cases = [case for case in scores.cases if compared is None or case.name in compared]
    if len(cases) < len(scores.cases):
        scores = summarize(cases, dataset.labels, scores.tolerance_mm)
    return Candidate(
        name="+".join(names),
        configurations=tuple(names),
        foreground_dice=scores.mean.foreground_dice,
        label_dice={name: mean.dice for name, mean in scores.mean.labels.items()},
        cases=len(cases),
        missed={name: missed_in(cases, name) for name in scores.labels},
    )

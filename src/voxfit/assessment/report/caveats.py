"""The closing section: what the numbers of a cross-validation do not show."""

from __future__ import annotations

from voxfit.assessment.report.findings import Findings, scores_of
from voxfit.assessment.report.markup import (
    NONE,
    Markup,
    count,
    duration,
    join,
    listing,
    paragraph,
)
from voxfit.assessment.selection import REPORTED_ONLY
from voxfit.imaging.labels import some
from voxfit.planning.plan import Plan
from voxfit.planning.recipes import FEW_STEPS, Plateau, Recipe

_MOST_WARNINGS = 20
"""Of single cases, that are listed."""


def show_caveats(findings: Findings) -> Markup:
    """The section of caveats."""
    plan, scores = findings.plan, findings.scores.get(findings.shown)
    items = [
        "They are cross-validation on one dataset. Images of another scanner, protocol, hospital or group of patients "
        "may be segmented worse: test on your own labelled images before you rely on a model.",
        "Each case was segmented by the network of one fold. The model that predicts averages the networks of all "
        "trained folds; that average was not tested.",
        _selection_caveat(findings),
        "The plan (spacing, patch, intensities of CT, postprocessing) was made from all training cases, the held-out "
        "ones included.",
        _schedule_caveat(findings.recipe),
        _few_steps(findings),
        _unequal_times(findings),
        *_unseen(findings),
        "Images of one patient that stand in different folds make scores too high. Voxfit knows of patients only what "
        "--group-by, or groups in dataset.json, say.",
        _skipped(findings),
        _postprocessing(plan),
        _absent(findings),
        "Dice of small structures falls with few wrong voxels, and cases count alike whatever their size. "
        "Compare Dice between labels with care, and look at distances and volumes too.",
        "The references have errors of their own. Where two readers would disagree as much as prediction and "
        "reference do, a higher Dice means nothing.",
    ]
    if scores and scores.missing:
        items.append(f"References without a prediction, in no mean: {some(scores.missing)}.")
    if scores:
        items += scores.warnings[:_MOST_WARNINGS]
    if scores and len(scores.warnings) > _MOST_WARNINGS:
        items.append(f"There are {len(scores.warnings) - _MOST_WARNINGS:,} more such warnings in scores.json.")
    last = "This is a research tool. It is no medical device, and these numbers are no clinical validation."
    return join(listing(item for item in items if item), paragraph(last))


def _selection_caveat(findings: Findings) -> str:
    rivals = [item for item in findings.candidates if item.name != REPORTED_ONLY]
    if not findings.selection or len(rivals) < 2:
        return ""
    return (
        f"The best of {len(rivals)} candidates was taken by the same scores that are shown here, which flatters it; "
        "small leads may be chance."
    )


def _schedule_caveat(recipe: Recipe | None) -> str:
    if recipe is None or not isinstance(recipe.schedule, Plateau):
        return ""
    return "The loss on patches of the held-out cases decided when a training ended (not what it learned)."


def _few_steps(findings: Findings) -> str:
    few = [
        f"{name} fold {fold} ({training.steps})"
        for name, folds in findings.trainings.items()
        for fold, training in folds.items()
        if training.manifest and training.steps < FEW_STEPS
    ]
    if not few:
        return ""
    return (
        f"Trained for fewer than {FEW_STEPS} steps: {some(few)}. These scores say little about what longer trainings "
        "reach on this dataset."
    )


def _unequal_times(findings: Findings) -> str:
    given = {
        f"{name} fold {fold}": training.manifest.get("given_seconds")
        for name, folds in findings.trainings.items()
        for fold, training in folds.items()
        if name in findings.shown.split("+") and training.manifest
    }
    if len(set(given.values())) < 2:
        return ""
    times = ", ".join(
        f"{name} {duration(seconds) if isinstance(seconds, float) else 'not timed'}" for name, seconds in given.items()
    )
    return f"The folds were not given the same time, because they were not asked for together: {times}."


def _unseen(findings: Findings) -> list[str]:
    """Folds that were not trained on every class."""
    if not findings.folds or not findings.fingerprint:
        return []
    folds, classes, known = findings.folds, findings.fingerprint.classes, findings.plan.labels.class_names
    items = []
    for fold, missing in folds.unseen(classes).items():
        text = f"Fold {fold}: no training case has {', '.join(known[index - 1] for index in missing)}."
        blind = fold in folds.blind(classes)
        held = " A network that has never seen foreground finds none: it is scored, but no part of the model."
        items.append(text + (held if blind else " Its network cannot find what it has never seen."))
    return items


def _postprocessing(plan: Plan) -> str:
    known = plan.labels.class_names
    names = [known[index - 1] for index in plan.single_component_labels if index <= len(known)]
    if not names:
        return (
            "No postprocessing was applied: no label is one connected component in every training case, so that "
            "scattered islands are kept."
        )
    return (
        f"Scores and pictures are after postprocessing: of {', '.join(names)} only the largest connected component is "
        "kept, because the label is one component in every training case. A true second component would be removed."
    )


def _skipped(findings: Findings) -> str:
    skipped = findings.fingerprint.skipped if findings.fingerprint else ()
    if not skipped:
        return ""
    reasons = " ".join(" ".join(case.reasons) for case in skipped[:_MOST_WARNINGS])
    return f"{count(len(skipped), 'training case')} could not be used and {'was' if len(skipped) == 1 else 'were'} " + (
        f"left out: {some([case.name for case in skipped])}. {reasons}"
    )


def _absent(findings: Findings) -> str:
    items = [scores_of(case, label) for case in findings.cases for label in findings.labels]
    both = sum(item.dice is None for item in items)
    one = sum(item.dice is not None and 0 in (item.reference_voxels, item.predicted_voxels) for item in items)
    return (
        f"A label that is absent in reference and prediction has no score ({NONE}) and is in no mean: here "
        f"{count(both, 'time')}. Absent in one of them, its Dice is 0 but it has no distance, so that mean distances "
        f"leave out complete failures: here {count(one, 'time')}."
    )

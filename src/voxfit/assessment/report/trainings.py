"""The section of the learning curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from voxfit.assessment.report.charts import COLOURS, Curve, curves
from voxfit.assessment.report.findings import Findings, FoldTraining
from voxfit.assessment.report.markup import (
    Markup,
    duration,
    element,
    fixed,
    join,
    paragraph,
    table,
)


def show_training(findings: Findings) -> Markup:
    """The section of the trainings."""
    if not findings.trainings:
        return paragraph("There is no training here.")
    order = [*findings.plan.configurations, *sorted(set(findings.trainings) - set(findings.plan.configurations))]
    names = [name for name in order if name in findings.trainings]
    rows = [
        [f"{name} fold {fold}", *_training_facts(training)]
        for name in names
        for fold, training in findings.trainings[name].items()
    ]
    head = ("Training", "Epochs", "Steps", "Time", "Last training loss", "Last validation loss", "State")
    text = (
        "The loss is cross-entropy minus Dice: -1 is the best it can be. Loss and Dice of validation are those of "
        "random patches of the held-out cases after each epoch, not of whole images: they show whether a training "
        "converged, not how good the segmentations are. Long curves are averaged over neighbouring epochs."
    )
    figures = [
        figure for name in names for figure in _curves(name, findings.trainings[name], findings.plan.labels.names)
    ]
    return join(paragraph(text), *figures, table("Trainings", head, rows, kind="numbers"))


def _training_facts(training: FoldTraining) -> list[str]:
    epochs = training.epochs
    last = epochs[-1] if epochs else {}
    seconds = math.fsum(value for epoch in epochs if (value := _real(epoch.get("seconds"))) is not None)
    losses = (fixed(_real(last.get(key))) for key in ("training_loss", "validation_loss"))
    return [
        str(len(epochs)),
        f"{training.steps:,}",
        duration(seconds),
        *losses,
        "finished" if training.manifest else "unfinished",
    ]


def _real(value: object) -> float | None:
    """A finite number, or None for anything else that a damaged history may hold."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _column(training: FoldTraining, key: str, index: int | None = None) -> list[float | None]:
    """A number of each epoch, or an item of a list; None where it is not there."""
    values = [epoch.get(key) for epoch in training.epochs]
    if index is not None:
        values = [value[index] if isinstance(value, list) and index < len(value) else None for value in values]
    return [_real(value) for value in values]


def _curves(name: str, folds: Mapping[int, FoldTraining], labels: Sequence[str]) -> list[Markup]:
    """The heading and the three charts of a configuration."""
    there = {fold: training for fold, training in folds.items() if training.epochs}
    if not there:
        return [element("h3", name), paragraph("There is no history of the training.")]
    loss, dice, rate = [], [], []
    for number, (fold, training) in enumerate(there.items()):
        loss += [Curve(f"fold {fold}, training", _column(training, "training_loss"), number)]
        loss += [Curve(f"fold {fold}, validation", _column(training, "validation_loss"), number, dashed=True)]
        rate += [Curve(f"fold {fold}", _column(training, "learning_rate"), number)]
        for index, label in enumerate(labels):
            dice += [Curve(f"{label}, fold {fold}", _column(training, "validation_dice", index), index)]
    folds_key = [(f"fold {fold}", number) for number, fold in enumerate(there)]
    charts = (
        ("Loss (dashed: validation)", curves(loss, f"{name}: loss by epoch"), folds_key),
        (
            "Dice of validation patches",
            curves(dice, f"{name}: Dice by epoch and label", ends=(0.0, 1.0)),
            [(label, number) for number, label in enumerate(labels)],
        ),
        ("Learning rate", curves(rate, f"{name}: learning rate by epoch", log=True), folds_key),
    )
    return [element("h3", name), element("div", *(_chart_figure(*chart) for chart in charts), class_="panels")]


def _chart_figure(title: str, chart: Markup, keys: Sequence[tuple[str, int]]) -> Markup:
    legend = (join(element("span", class_=f"key c{number % COLOURS}"), name) for name, number in keys)
    below = element("p", *(element("span", entry, class_="entry") for entry in legend), class_="legend")
    return element("figure", element("figcaption", title), chart, below)

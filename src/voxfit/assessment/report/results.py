"""Sections about what came out: the result, the choice, spread, volumes and all cases."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from voxfit.assessment.report.charts import MOST_DOTS, scatter, strip, strip_axis
from voxfit.assessment.report.findings import Findings, case_dice, scores_of
from voxfit.assessment.report.markup import (
    NONE,
    Markup,
    count,
    digits_of_size,
    element,
    fixed,
    join,
    paragraph,
    size,
    table,
)
from voxfit.assessment.report.settings import show_coverage, show_departures
from voxfit.assessment.scores import CaseScores, LabelScores, Scores
from voxfit.assessment.selection import REPORTED_ONLY, Candidate

_LABELS_A_TABLE = 3
_MOST_ROWS = 500
"""Of more cases the worst are listed: the page must stay one that a browser opens."""


def show_result(findings: Findings) -> Markup:
    """The section of the main numbers."""
    plan, shown = findings.plan, findings.shown
    chosen = next((item for item in findings.candidates if item.name == shown), None)
    medians = [dice for case in findings.cases if (dice := case_dice(case)) is not None]
    facts = {
        "Mean foreground Dice": fixed(chosen.foreground_dice) if chosen else NONE,
        "Median over cases": fixed(statistics.median(medians)) if medians else NONE,
        "Worst case": fixed(min(medians)) if medians else NONE,
        "Cases scored": f"{chosen.cases if chosen else 0} of {plan.num_cases}",
        "Model chosen" if findings.selection else "Best so far": shown or NONE,
    }
    cards = [element("div", element("dt", name), element("dd", value)) for name, value in facts.items()]
    lead = "Dice: each case is segmented by a network that was not trained on it. 1 is perfect."
    return join(
        paragraph(lead), element("dl", *cards, class_="cards"), show_coverage(findings), show_departures(findings)
    )


def show_choice(findings: Findings) -> Markup:
    """The section of the candidates."""
    candidates = sorted(findings.candidates, key=lambda item: -(item.foreground_dice or 0.0))
    if not candidates:
        return paragraph("Nothing has been cross-validated.")
    labels = list(dict.fromkeys(name for item in candidates for name in item.label_dice))
    rows = []
    for item in candidates:
        chosen = bool(findings.selection) and item.name == findings.shown
        name = item.name + (" (chosen)" if chosen else " (reported only)" if item.name == REPORTED_ONLY else "")
        cells = [name, fixed(item.foreground_dice), *(_label_dice(item, label) for label in labels)]
        cells.append(str(item.cases))
        rows.append([element("strong", cell) for cell in cells] if chosen else cells)
    head = ("Candidate", "Mean foreground", *labels, "Cases")
    how = f", {findings.selection.how}" if findings.selection and findings.selection.folds[1] else ""
    numbers = table(f"Candidates: mean Dice{how}", head, rows, kind="numbers")
    return join(_reason(findings, candidates), numbers)


def _label_dice(item: Candidate, label: str) -> str:
    dice, (missed, there) = item.label_dice.get(label), item.missed.get(label, (0, 0))
    return fixed(dice) + (f" (missed in {missed} of {there})" if missed and not dice else "")


def _reason(findings: Findings, candidates: Sequence[Candidate]) -> Markup:
    """Why the chosen one was chosen, and by how much."""
    if not findings.selection:
        return paragraph("Nothing has been chosen yet; this is what has been scored so far.")
    if len(candidates) == 1:
        return paragraph(f"{findings.shown} is the only candidate: there was nothing to choose between.")
    text = f"{findings.shown} is chosen: the highest mean foreground Dice (mean over labels of the mean over cases)."
    rivals = [item for item in candidates if item.name != REPORTED_ONLY and item.foreground_dice is not None]
    if len(rivals) > 1 and rivals[0].name == findings.shown:
        lead = (rivals[0].foreground_dice or 0.0) - (rivals[1].foreground_dice or 0.0)
        text += f" It leads the next, {rivals[1].name}, by {lead:.3f}."
    if any(item.name == REPORTED_ONLY for item in candidates):
        text += f" {REPORTED_ONLY} is the first stage of the cascade and is never chosen."
    return paragraph(text)


def show_spread(findings: Findings) -> Markup:
    """The section of the spread over cases."""
    if not findings.cases:
        return paragraph("There are no cases with scores.")
    columns: dict[str, dict[str, float]] = {
        label: {case.name: dice for case in findings.cases if (dice := scores_of(case, label).dice) is not None}
        for label in findings.labels
    }
    if len(columns) > 1:
        columns["Mean of the labels"] = {
            case.name: dice for case in findings.cases if (dice := case_dice(case)) is not None
        }
    lowest = min((dice for values in columns.values() for dice in values.values()), default=0.0)
    low = min(math.floor(lowest * 10) / 10, 0.9)
    rows = [_spread_row(name, values, low, number) for number, (name, values) in enumerate(columns.items())]
    rows += [["", strip_axis(low), "", "", "", ""]]
    head = ("Label", "Dice of each case", "Median", "Middle half", "Worst", "Cases")
    text = (
        "A point is a case (its name appears under the pointer), the box holds the middle half of them, and the thick "
        "line is the median."
    )
    text += "" if low == 0 else f" The scale begins at {low:.1f}, not at 0."
    text += _drawn(findings, "Dice")
    numbers = table("Dice by label", head, rows, kind="numbers strips")
    return join(paragraph(text), numbers, _means(findings.scores[findings.shown]))


def _means(scores: Scores) -> Markup:
    head = ("Label", "Dice", "HD95, mm", f"Surface Dice at {scores.tolerance_mm:g} mm")
    rows = (
        [name, fixed(mean.dice), fixed(mean.hausdorff_95_mm, 2), fixed(mean.surface_dice)]
        for name, mean in scores.mean.labels.items()
    )
    return table("Means over the cases that have a value", head, rows, kind="numbers")


def _spread_row(name: str, values: Mapping[str, float], low: float, number: int) -> list[object]:
    if not values:
        return [name, NONE, NONE, NONE, NONE, "0"]
    quarter, median, three = (float(value) for value in np.percentile(list(values.values()), (25, 50, 75)))
    worst = min(values, key=lambda case: values[case])
    described = f"{name}: median Dice {median:.3f}, middle half {quarter:.3f} to {three:.3f}, worst {values[worst]:.3f}"
    return [
        name,
        strip(values, low, number, described),
        f"{median:.3f}",
        f"{quarter:.3f} to {three:.3f}",
        join(f"{values[worst]:.3f} ", element("small", worst)),
        str(len(values)),
    ]


def show_volumes(findings: Findings) -> Markup:
    """The section of volumes."""
    if not findings.cases:
        return paragraph("There are no cases with scores.")
    rows, charts = [], []
    for number, label in enumerate(findings.labels):
        items = {case.name: scores_of(case, label) for case in findings.cases}
        pairs = {name: (item.reference_ml, item.predicted_ml) for name, item in items.items()}
        rows.append([label, *_agreement(list(pairs.values()))])
        described = f"{label}: predicted against reference volume, {count(len(pairs), 'case')}; see the table below"
        chart = scatter(pairs, ("reference, ml", "predicted, ml"), number, described)
        charts.append(element("figure", element("figcaption", label), chart))
    head = (
        "Label",
        "Median reference, ml",
        "Mean difference, ml",
        "Limits of agreement, ml",
        "Correlation",
        "Sum ratio",
    )
    text = (
        "A point on the dashed line has the right volume, which does not mean the right place. Differences are "
        "prediction minus reference; 95% of them lie about within the limits of agreement (mean +/- 1.96 standard "
        "deviations; Bland and Altman, Lancet 1:307, 1986). The sum ratio is all predicted by all reference volume."
    )
    text += _drawn(findings, "difference")
    text += " 2D images count as 1 mm thick." if findings.fingerprint and findings.fingerprint.dimension == 2 else ""
    numbers = table("Agreement of volumes", head, rows, kind="numbers")
    return join(paragraph(text), element("div", *charts, class_="panels"), numbers)


def _drawn(findings: Findings, what: str) -> str:
    """Where not every case is a point."""
    cases = len(findings.cases)
    if cases <= MOST_DOTS:
        return ""
    return f" Of {cases:,} cases {MOST_DOTS} are drawn, evenly by their rank of {what}; all numbers are of all cases."


def _agreement(pairs: Sequence[tuple[float, float]]) -> list[str]:
    """Median reference, mean difference, limits of agreement, correlation and ratio of the sums."""
    reference, predicted = np.array(pairs).T
    differences = predicted - reference
    middle, mean = float(np.median(reference)), float(differences.mean())
    digits = digits_of_size(middle or mean)
    limits = correlation = NONE
    if len(pairs) > 1:
        reach = 1.96 * float(differences.std(ddof=1))
        limits = f"{mean - reach:+,.{digits}f} to {mean + reach:+,.{digits}f}"
        if reference.std() > 0 and predicted.std() > 0:
            correlation = fixed(float(np.corrcoef(reference, predicted)[0, 1]), 2)
    ratio = fixed(float(predicted.sum() / reference.sum()), 2) if reference.sum() else NONE
    return [size(middle), f"{mean:+,.{digits}f}", limits, correlation, ratio]


def show_cases(findings: Findings) -> Markup:
    """The section of all cases."""
    if not findings.cases:
        return paragraph("There are no cases with scores.")
    labels = findings.labels
    chunks = [labels[first : first + _LABELS_A_TABLE] for first in range(0, len(labels), _LABELS_A_TABLE)]
    text = (
        "From the worst to the best mean Dice over labels. HD95 is the 95th percentile Hausdorff distance; "
        f"{NONE} stands where a value is not defined."
    )
    cases, title = findings.cases, "All cases"
    if len(cases) > _MOST_ROWS:
        title = f"The worst {_MOST_ROWS} cases"
        file = findings.layout.all_scores()[findings.shown].relative_to(findings.run)
        text += f" These are the worst {_MOST_ROWS} of {len(cases):,} cases; all of them are in {file}."
    return join(paragraph(text), *(_cases_table(title, cases[:_MOST_ROWS], chunk) for chunk in chunks))


def _cases_table(title: str, cases: Sequence[CaseScores], labels: Sequence[str]) -> Markup:
    columns = ("Dice", "HD95, mm", "Reference, ml", "Predicted, ml")
    groups = element(
        "tr",
        element("td", colspan=2),
        *(element("th", label, colspan=len(columns), scope="colgroup") for label in labels),
    )
    rows = (
        [case.name, fixed(case_dice(case)), *(cell for label in labels for cell in _case_cells(scores_of(case, label)))]
        for case in cases
    )
    head = ("Case", "Mean Dice", *(column for _ in labels for column in columns))
    return table(f"{title}: {', '.join(labels)}", head, rows, groups=groups, kind="numbers long")


def _case_cells(item: LabelScores) -> tuple[str, ...]:
    distance = fixed(item.hausdorff_95_mm, 2)
    return fixed(item.dice), distance, size(item.reference_ml), size(item.predicted_ml)

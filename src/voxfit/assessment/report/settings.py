"""Sections about what was done: the dataset, departures from the paper, the trainings, the plan."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from typing_extensions import assert_never

from voxfit.assessment.report.findings import Findings
from voxfit.assessment.report.markup import (
    Markup,
    by,
    count,
    duration,
    element,
    join,
    listing,
    notice,
    paragraph,
    table,
)
from voxfit.core.errors import VoxfitError
from voxfit.planning.grid import ClipAndScale, Divide, MissingCTStatistics, Normalization, UnitRange, ZScore
from voxfit.planning.plan import PAPER, Plan
from voxfit.planning.planners import plan_by
from voxfit.planning.recipes import Plateau, PolynomialDecay, Recipe, recipe_named


def show_coverage(findings: Findings) -> Markup:
    """Which folds stand behind the scores."""
    scored, cases = len(findings.cases), findings.plan.num_cases
    trained = findings.finished_folds()
    total = len(findings.folds.validation) if findings.folds else findings.recipe.folds if findings.recipe else 0
    if not scored:
        return notice("There are no scores yet: nothing here says how well the model works.")
    if not trained or not total:
        return notice(f"Which folds were trained is not known; {scored} of {cases} cases have a score.")
    rest = f" {scored} of {cases} cases have a score; how well the others would be segmented was not measured."
    if len(trained) < total:
        few = f"Only {len(trained)} of {total} folds {'was' if len(trained) == 1 else 'were'} trained"
        numbers = f" (fold{'s' * (len(trained) > 1)} {', '.join(map(str, trained))})."
        held = f" The model holds {count(len(trained), 'network')} for each configuration; the paper averages {total}."
        return notice(element("strong", few), numbers, rest, held)
    if scored < cases:
        return notice(f"All {total} folds were trained, but only", rest)
    return paragraph(f"All {total} folds were trained: each case was segmented by a network that had not seen it.")


def show_departures(findings: Findings) -> Markup:
    """Everything that differs from the paper's settings."""
    said = findings.plan.changes
    numbers = [*_recipe_changes(findings.recipe), *_plan_changes(findings)]
    parts = []
    planner = findings.recipe.planner if findings.recipe else PAPER
    if planner != PAPER:
        parts.append(paragraph(f"Planned and trained by the recipe {planner}, not by the paper's."))
    if said or numbers:
        lists = [listing(said)] * bool(said) + [paragraph("In numbers:")] * bool(said and numbers) + [listing(numbers)]
        parts.append(notice(element("strong", "These are not the settings of the paper."), *lists))
    elif findings.recipe and planner == PAPER:
        parts.append(paragraph("Plan and training are those of the paper (recipe nnunet-2018), unchanged."))
    if findings.notes:
        parts.append(notice(element("strong", "Missing or unreadable in the run folder:"), listing(findings.notes)))
    return join(*parts)


def _recipe_changes(recipe: Recipe | None) -> list[str]:
    if recipe is None:
        return []
    usual, changes = recipe_named(recipe.planner), []
    whose = "paper" if recipe.planner == PAPER else recipe.planner
    if recipe.schedule != usual.schedule:
        changes += [f"schedule: {schedule_words(recipe.schedule)} ({whose}: {schedule_words(usual.schedule)})"]
    ignored = {"name", "seed", "schedule"}
    return changes + _differences(recipe.model_dump(exclude=ignored), usual.model_dump(exclude=ignored), whose)


def schedule_words(schedule: Plateau | PolynomialDecay) -> str:
    """A schedule in words."""
    match schedule:
        case Plateau():
            return (
                f"learning rate {schedule.learning_rate:g}, times {schedule.factor:g} on plateaus of the training "
                f"loss, {schedule.epochs} epochs at most"
            )
        case PolynomialDecay():
            length = count(schedule.epochs, "epoch") if schedule.epochs else duration(schedule.seconds or 0)
            return f"learning rate {schedule.learning_rate:g}, polynomial decay to 0 within {length}"
        case _:
            assert_never(schedule)


def _plan_changes(findings: Findings) -> list[str]:
    """Numbers of the plan that the rules do not give for this dataset: a budget's, a user's."""
    plan = findings.plan
    changes = _differences(plan.limits.model_dump(), type(plan.limits)().model_dump(), "paper", "limits.")
    ruled = ruled_plan(findings)
    for name, configuration in plan.configurations.items():
        if ruled and name in ruled.configurations:
            usual = ruled.configurations[name].model_dump(exclude={"why"})
            changes += _differences(configuration.model_dump(exclude={"why"}), usual, "rules", f"{name}: ")
    return changes


def ruled_plan(findings: Findings) -> Plan | None:
    """The plan as the rules make it from the fingerprint."""
    try:
        return (
            plan_by(findings.plan.planner, findings.fingerprint, findings.plan.limits) if findings.fingerprint else None
        )
    except (VoxfitError, ValueError):
        return None


def _differences(found: Mapping[str, object], usual: Mapping[str, object], whose: str, prefix: str = "") -> list[str]:
    changes = []
    for key, value in found.items():
        known = usual.get(key)
        if isinstance(value, dict):
            changes += _differences(value, known if isinstance(known, dict) else {}, whose, f"{prefix}{key}.")
        elif value != known:
            changes += [f"{prefix}{key} {plain(value)} ({whose}: {plain(known)})"]
    return changes


def plain(value: object) -> str:
    """A setting as text."""
    if isinstance(value, tuple | list):
        return by(value)
    return "none" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def show_dataset(findings: Findings) -> Markup:
    """The section of the dataset."""
    plan, fingerprint = findings.plan, findings.fingerprint
    channels = zip(plan.channel_names, plan.normalization, strict=True)
    facts = [
        ("Training cases", f"{plan.num_cases:,}"),
        ("Channels", ", ".join(f"{name} ({_normalization(rule)})" for name, rule in channels)),
        ("Labels", ", ".join(f"{label.name} ({label.value})" for label in plan.labels.classes)),
    ]
    if plan.labels.regions:
        shown = (f"{region.name} ({', '.join(map(str, region.values))})" for region in plan.labels.regions)
        facts.append(("Regions, pasted in this order", ", ".join(shown)))
    if plan.labels.ignore is not None:
        facts.append(("Voxels without annotation", f"value {plan.labels.ignore}: not learned from, not scored"))
    if not fingerprint:
        return table("Facts", ("", "Value"), facts)
    share = fingerprint.size_after_cropping()
    facts += [("Dimension", f"{fingerprint.dimension}D")]
    facts += [("Cropping to nonzero", f"leaves {share:.0%} of the voxels" if share < 1 else "takes nothing away")]
    extents = [np.multiply(case.uncropped_shape, case.spacing_mm) for case in fingerprint.cases]
    measures = {
        "Spacing, mm": [case.spacing_mm for case in fingerprint.cases],
        "Shape, voxels": [case.uncropped_shape for case in fingerprint.cases],
        "Extent, mm": extents,
    }
    first = 3 - fingerprint.dimension
    rows = [
        [
            name,
            *(
                by(found.tolist())
                for found in np.percentile(np.asarray(values, float), (0, 50, 100), axis=0)[:, first:]
            ),
        ]
        for name, values in measures.items()
    ]
    axes = "(y, x)" if first else "(z, y, x)"
    ranges = table(f"Geometry of the training images, each axis {axes}", ("", "Smallest", "Median", "Largest"), rows)
    return element("div", table("Facts", ("", "Value"), facts), ranges, class_="pair")


def _normalization(rule: Normalization) -> str:
    match rule:
        case ZScore():
            return "z-score of each case" + (", inside its nonzero mask" if rule.inside_mask else "")
        case ClipAndScale():
            return (
                f"clipped to {rule.lower:g} to {rule.upper:g}, minus {rule.mean:.4g}, divided by "
                f"{rule.standard_deviation:.4g}: of the training set's foreground"
            )
        case UnitRange():
            return "from each case's own minimum and maximum to 0 and 1"
        case Divide():
            return "left as it is" if rule.by == 1 else f"divided by {rule.by:g}"
        case MissingCTStatistics():
            return "CT, not measured"
        case _:
            assert_never(rule)


_WORDS = {
    "spacing": "spacing, mm",
    "median_shape": "median shape, voxels",
    "patch_size": "patch size, voxels",
    "num_pool": "poolings of each axis",
    "base_features": "feature maps at full resolution",
    "max_features": "feature maps at most",
    "slice_axis": "slice axis (0 is z)",
    "slice_spacing": "distance of slices, mm",
}

_RECIPE = ("folds", "steps_per_epoch", "validation_steps", "deep_supervision", "seed")


def show_plan(findings: Findings) -> Markup:
    """The section of the plan."""
    plan, ruled = findings.plan, ruled_plan(findings)
    parts = [
        paragraph("What each model is, and the reason the rules give; numbers in brackets are those of the method.")
    ]
    for name, configuration in plan.configurations.items():
        usual = ruled.configurations.get(name) if ruled else None
        state = "" if name in findings.trainings else " (not trained)"
        rows = []
        for key, value in configuration.model_dump(exclude={"why"}).items():
            if value is None:
                continue
            default = getattr(usual, key) if usual else value
            changed = "" if value == default else f"changed; the rules give {plain(default)}: "
            rows.append(
                [
                    _WORDS.get(key, key.replace("_", " ")),
                    plain(value),
                    (changed + configuration.why.get(key, "")).removesuffix(": "),
                ]
            )
        parts.append(table(f"Configuration {name}{state}", ("", "Value", "Why"), rows, kind="plan"))
    if findings.recipe:
        recipe = findings.recipe
        settings = recipe.optimizer.model_dump(exclude={"kind"})
        optimizer = ", ".join(f"{key.replace('_', ' ')} {plain(value)}" for key, value in settings.items())
        rows = [["schedule", schedule_words(recipe.schedule)]]
        rows += [["optimizer", f"{recipe.optimizer.kind}: {optimizer}"]]
        rows += [[key.replace("_", " "), plain(getattr(recipe, key))] for key in _RECIPE]
        parts.append(table(f"Recipe {recipe.name}", ("", "Value"), rows))
    return join(*parts)

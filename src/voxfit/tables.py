"""What commands print of datasets, plans and scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from voxfit.core.formatting import format_sizes

if TYPE_CHECKING:
    from voxfit.assessment.scores import Scores
    from voxfit.assessment.selection import Selection
    from voxfit.imaging.dataset import Dataset
    from voxfit.inference.int8_json import Quantization
    from voxfit.planning.plan import Plan
    from voxfit.running.collection import CollectionResult


def print_dataset(console: Console, found: Dataset) -> None:
    """What a dataset that can be trained on holds."""
    labels = ", ".join(f"{label.value} {label.name}" for label in found.labels.classes)
    if found.labels.regions:
        labels += f", trained as the regions {', '.join(found.labels.names)}"
    if found.labels.ignore is not None:
        labels += f", {found.labels.ignore} not annotated"
    console.print(
        f"{found.name}: {len(found.cases)} training cases, {len(found.test_cases)} test images, "
        f"channels {', '.join(found.channel_names)}, labels {labels}. Ready to train.",
        markup=False,
    )


def print_plan(console: Console, made: Plan) -> None:
    """A plan, each number with its reason."""
    labels = ", ".join(made.labels.names)
    console.print(f"{made.dataset}: {made.num_cases} cases, labels {labels}", markup=False)
    for channel, rule in zip(made.channel_names, made.normalization, strict=True):
        shown = ", ".join(f"{key} {value}" for key, value in rule.model_dump().items() if key != "kind")
        console.print(
            f"  channel {channel}: {rule.kind}{' (' if shown else ''}{shown}{')' if shown else ''}", markup=False
        )
    for name, configuration in made.configurations.items():
        table = Table(title=name, title_justify="left", title_style="bold")
        for column in ("", "value", "why"):
            table.add_column(column)
        fields = ("spacing", "median_shape", "patch_size", "num_pool", "batch_size", "dice", "augmentation", "previous")
        for key in fields:
            value = getattr(configuration, key)
            if value is not None:
                shown = format_sizes(value) if isinstance(value, tuple) else str(value)
                table.add_row(key, shown, configuration.why.get(key, ""))
        console.print(table)
    if "3d" in made.configurations and "3d_lowres" not in made.configurations:
        console.print("No cascade: the median case is at most four patches large [A5].", highlight=False)
    for change in made.changes:
        console.print(f"changed: {change}", markup=False)


def print_selection(console: Console, selection: Selection) -> None:
    """All candidates of a run, the chosen one marked."""
    labels = list(selection.candidates[0].label_dice)
    rows = [
        (
            candidate.name + (" (chosen)" if candidate.name == selection.chosen else ""),
            [
                dice_cell(candidate.foreground_dice),
                *(dice_cell(candidate.label_dice[name], candidate.missed.get(name)) for name in labels),
            ],
            candidate.name == selection.chosen,
        )
        for candidate in selection.candidates
    ]
    console.print(score_table(f"Dice, {selection.how}", ["foreground", *labels], rows))


def print_collection(console: Console, done: CollectionResult) -> None:
    """A table for each dataset (one of all would be too wide for a screen), where it was written, and what failed."""
    for dataset, result in done.results.items():
        from voxfit.running.collection import table as table_of  # it imports torch, which no other table needs

        columns, rows = table_of({dataset: result})
        title = f"{dataset}: mean Dice (%), {result.selection.how}"
        shown = Table(title=title, title_justify="left", title_style="bold")
        shown.add_column("")
        for _, label in columns:
            shown.add_column(label, justify="right")
        for name, cells in rows:
            texts = [dice_cell(dice, percent=True) for dice, _ in cells]
            shown.add_row(name, *texts, style="bold green" if any(chosen for _, chosen in cells) else "")
        console.print(shown)
    console.print("Written to " + " and ".join(str(path) for path in done.tables), markup=False)
    for name, error in done.failures.items():
        console.print(f"error: {name}: {error}", markup=False, highlight=False, style="red")


def print_scores(console: Console, scores: Scores) -> None:
    """The means of all labels."""
    from voxfit.assessment.scores import missed_in

    columns = ["Dice", "Hausdorff 95 (mm)", f"surface Dice ({scores.tolerance_mm:g} mm)"]
    rows: list[tuple[str, list[float | Text | None], bool]] = [
        (name, [dice_cell(mean.dice, missed_in(scores.cases, name)), mean.hausdorff_95_mm, mean.surface_dice], False)
        for name, mean in scores.mean.labels.items()
    ]
    rows.append(("mean foreground", [dice_cell(scores.mean.foreground_dice), None, None], True))
    console.print(score_table(f"Scores of {len(scores.cases)} cases", columns, rows))


def print_quantization(console: Console, made: Quantization) -> None:
    """What the INT8 form of a model costs."""
    dice = made.dice
    how = "out of fold" if dice.out_of_fold else "by the whole model"
    rows: list[tuple[str, list[float | None], bool]] = [
        ("float32", [dice.float32, *dice.float32_labels.values()], False),
        ("int8", [dice.int8, *dice.int8_labels.values()], dice.is_small),
    ]
    console.print(score_table(f"Dice ({dice.cases} cases, {how})", ["foreground", *dice.int8_labels], rows))
    if not dice.is_small:
        console.print("INT8 loses too much here: `voxfit predict` refuses it without --accept-loss.")


def dice_cell(dice: float | None, missed: tuple[int, int] | None = None, *, percent: bool = False) -> Text:
    """A Dice as it is shown; one of 0 is bad, whatever row it stands in.

    Args:
        dice: or None where there is none.
        missed: in how many cases nothing of the label was found, and how many have it.
        percent: shown in percent.
    """
    if dice is None:
        return Text("-")
    shown = f"{100 * dice:.2f}" if percent else f"{dice:.4f}"
    if float(shown) > 0:
        return Text(shown)
    return Text(shown + (f", missed in {missed[0]} of {missed[1]}" if missed else ""), style="bold red")


def score_table(
    title: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[float | Text | None], bool]]
) -> Table:
    """A table of scores; the rows that are marked stand out.

    Args:
        title: above it.
        columns: names of the scores.
        rows: name, scores (as numbers, or as they are shown), marked.
    """
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    for name, values, marked in rows:
        cells = [value if isinstance(value, Text) else "-" if value is None else f"{value:.4f}" for value in values]
        table.add_row(name, *cells, style="bold green" if marked else "")
    return table

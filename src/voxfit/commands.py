"""The commands, thin; with the tables and the console, the only place that prints.

Heavy modules are imported when a command runs, so that `voxfit --help` answers at once.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal, Optional, cast

import typer

from voxfit.core.errors import UsageError
from voxfit.core.version import VERSION

if TYPE_CHECKING:
    from rich.console import Console

    from voxfit.console import ConsoleListener
    from voxfit.planning.plan import Limits, Plan
    from voxfit.planning.recipes import Recipe
    from voxfit.running.request import FitRequest


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A self-configuring segmentation U-Net for any medical image dataset.",
)

importing = typer.Typer(no_args_is_help=True, help="Take over models of other programs.")
app.add_typer(importing, name="import")

RunFolder = Annotated[Path, typer.Option("-o", "--output", help="The run folder.")]
GroupBy = Annotated[
    Optional[str],  # noqa: UP045 - typer reads this on Python 3.10 too
    typer.Option(help="Regular expression on case names: what it captures (a patient) is never split between folds."),
]
Limit = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--limit", help="KEY=VALUE: another constant of the planning rules, e.g. voxel_budget=262144."),
]
RecipeName = Annotated[
    str, typer.Option(help="nnunet-2018, nnunet-v2, nnunet-v2-resenc-m, -l or -xl, or a JSON file of settings.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
SkipBadCases = Annotated[bool, typer.Option("--skip-bad-cases", help="Leave out training cases that cannot be used.")]
Precision = Literal["float32", "int8"]
Workers = Annotated[Optional[int], typer.Option(help="Processes for reading and preparing; default: one a core.")]  # noqa: UP045


def run() -> int:
    """Run the command that the command line asks for, and return its exit code.

    Raises:
        VoxfitError: of the command, or that the command line cannot be understood.
    """
    not_understood = cast(
        "type[typer.BadParameter]", typer.BadParameter.__base__
    )  # click's, which typer may bring along
    try:
        return int(app(prog_name="voxfit", standalone_mode=False) or 0)
    except not_understood as error:
        said = error.format_message().replace("Value error, ", "")  # pydantic's word, by way of typer
        if not said:  # without a command, the help was shown in place of a message
            return UsageError.exit_code
        about = error.ctx.command_path if error.ctx else "voxfit"
        raise UsageError(f"{said}{'' if said[-1] in '.?' else '.'} `{about} --help` shows what there is.") from None


def _show_version(wanted: bool) -> None:
    if wanted:
        _console()[0].print(f"voxfit {VERSION}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option(help="Show the traceback of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Say which.")
    ] = False,
) -> None:
    """Hold the options of all commands; `voxfit.cli` itself looks for `--debug`."""


@app.command()
def check(
    dataset: Path,
    fix: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Write a copy to this new folder, label headers taken from the images."),
    ] = None,
    skip_bad_cases: SkipBadCases = False,
    group_by: GroupBy = None,
    workers: Workers = None,
) -> None:
    """Report every problem of a dataset in one pass; exit code 1 where training could not start."""
    from voxfit.core.parallel import choose_executor
    from voxfit.imaging.dataset import Dataset
    from voxfit.running.checking import check_dataset, fix_dataset
    from voxfit.tables import print_dataset

    console, listener = _console()
    found = Dataset.open(dataset, group_by)
    listener.stage(f"Checking {len(found.cases)} cases of {found.name}")
    executor = choose_executor(workers)
    usable = check_dataset(found, listener, executor, skip=skip_bad_cases)
    listener.close()
    print_dataset(console, usable)
    if fix is not None:
        fix_dataset(usable, fix, listener, executor)


@app.command()
def plan(
    dataset: Annotated[Optional[Path], typer.Argument(help="A dataset folder.")] = None,  # noqa: UP045
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "-o", "--output", help="Run folder, or JSON file with --fingerprint; without, nothing is written."
        ),
    ] = None,
    fingerprint: Annotated[Optional[Path], typer.Option(help="Plan from measured facts, without images.")] = None,  # noqa: UP045
    recipe: RecipeName = "nnunet-2018",
    limit: Limit = None,
    group_by: GroupBy = None,
    workers: Workers = None,
    prepare: Annotated[bool, typer.Option("--prepare", help="Prepare all cases too, as `fit` would.")] = False,
) -> None:
    """Show what would be trained, with a reason for each number; with -o, write plan.json too."""
    from voxfit.options import parse_limits, parse_recipe
    from voxfit.running.request import FitRequest
    from voxfit.tables import print_plan

    console, listener = _console()
    if prepare and (dataset is None or output is None):
        raise UsageError("--prepare needs the dataset folder and -o RUN, where what it prepares is kept.")
    settings, limits = parse_recipe(recipe), parse_limits(limit)
    if fingerprint is not None and dataset is None:
        made, written = _plan_of_facts(fingerprint, settings, limits, output), output
    elif dataset is not None and fingerprint is None:
        with nullcontext(output) if output else TemporaryDirectory() as folder:
            request = FitRequest(dataset, folder, recipe=settings, limits=limits, group_by=group_by, workers=workers)
            made = _plan_of_images(request, listener, prepare=prepare)
        written = output / "plan.json" if output else None
    else:
        raise UsageError("Give either a dataset folder or --fingerprint FILE.")
    listener.close()
    print_plan(console, made)
    console.print(f"Written to {written}" if written else "Nothing was written; -o keeps the plan.")


def _plan_of_facts(fingerprint: Path, recipe: Recipe, limits: Limits | None, output: Path | None) -> Plan:
    from voxfit.imaging.protection import protect
    from voxfit.planning.fingerprint import load_fingerprint
    from voxfit.planning.planners import plan_by

    protect([output] if output else [], [fingerprint])
    if output and output.exists():
        raise UsageError(f"-o {output}: is there already, perhaps edited by hand. Name a new file.")
    made = plan_by(recipe.planner, load_fingerprint(fingerprint), limits)
    if output:
        made.save(output)
    return made


def _plan_of_images(request: FitRequest, listener: ConsoleListener, *, prepare: bool) -> Plan:
    from voxfit.running.preparation import prepare_only

    if Path(request.run).suffix == ".json":
        raise UsageError(f"-o {request.run}: name the run folder; the plan becomes plan.json in it.")
    return prepare_only(request, listener, stores=prepare)


@app.command()
def fit(
    dataset: Annotated[Path, typer.Argument(help="A dataset folder, or a folder of several.")],
    output: RunFolder,
    configurations: Annotated[Optional[str], typer.Option(help="2d,3d,...; default: all that are offered.")] = None,  # noqa: UP045
    folds: Annotated[Optional[str], typer.Option(help="0,1,...; default: all.")] = None,  # noqa: UP045
    recipe: RecipeName = "nnunet-2018",
    epochs: Annotated[Optional[int], typer.Option(min=1, help="Exactly this many, with polynomial decay.")] = None,  # noqa: UP045
    budget: Annotated[Optional[str], typer.Option(help="Time for the whole fit: 90s, 20m, 2h, 1d.")] = None,  # noqa: UP045
    device: Device = "auto",
    seed: Annotated[Optional[int], typer.Option(min=0, help="Of everything random.")] = None,  # noqa: UP045
    limit: Limit = None,
    group_by: GroupBy = None,
    workers: Workers = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="On a GPU too, the same training ends in the same bytes; slower.")
    ] = False,
    skip_bad_cases: SkipBadCases = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Set finished trainings aside that do not fit what is asked for.")
    ] = False,
) -> None:
    """Do the whole method: check, plan, prepare, train, cross-validate, select. Run again to resume."""
    from voxfit.options import parse_limits, parse_numbers, parse_recipe, parse_seconds
    from voxfit.running.request import FitRequest

    settings = parse_recipe(recipe)
    if seed is not None:
        settings = settings.revised(seed=seed)
    request = FitRequest(
        dataset,
        output,
        configurations=tuple(name.strip() for name in configurations.split(",")) if configurations else None,
        folds=parse_numbers(folds, "--folds") if folds else None,
        recipe=settings,
        epochs=epochs,
        budget_seconds=parse_seconds(budget) if budget else None,
        device=device,
        limits=parse_limits(limit),
        group_by=group_by,
        workers=workers,
        deterministic=deterministic,
        skip_bad_cases=skip_bad_cases,
        restart=restart,
    )
    from voxfit.running.collection import datasets_in, fit_all
    from voxfit.running.fit import fit as run_fit
    from voxfit.tables import print_collection, print_selection

    console, listener = _console()
    if several := datasets_in(dataset):
        done = fit_all(several, request, listener)
        print_collection(console, done)
        if done.failures:
            raise typer.Exit(2)
        return
    result = run_fit(request, listener)
    listener.close()
    print_selection(console, result.selection)
    console.print(f"Model:   {result.model}\nReport:  {result.run / 'report.html'}", markup=False)
    console.print(f"Next:    voxfit predict {result.run} IMAGES -o OUT", markup=False)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A run or a model folder.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or a folder of them.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the label maps.")],
    device: Device = "auto",
    mirror: Annotated[
        bool, typer.Option(help="Average over mirrored variants; without it 4 to 8 times faster.")
    ] = True,
    fast: Annotated[
        bool, typer.Option("--fast", help="One network, one fold, no mirroring; says what it costs.")
    ] = False,
    max_memory: Annotated[Optional[str], typer.Option(help="800M, 4G; default: no limit.")] = None,  # noqa: UP045
    backend: Annotated[
        str, typer.Option(help="auto, torch, torch-channels-last, torch-compiled or openvino.")
    ] = "auto",
    precision: Annotated[Precision, typer.Option(help="int8 where `voxfit quantize` made it.")] = "float32",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Make label maps again; other files there, too.")
    ] = False,
    accept_loss: Annotated[bool, typer.Option("--accept-loss", help="INT8 even where it loses 0.002 Dice.")] = False,
) -> None:
    """Segment images; the label maps have exactly the images' geometry. Exit code 2 where some were not made."""
    from voxfit.inference.model import Model
    from voxfit.options import parse_size
    from voxfit.running.prediction import find_cases, overlooked, predict_cases, require_folder

    console, listener = _console()
    require_folder(output, images)
    limit = parse_size(max_memory) if max_memory else None
    opened = Model.open(
        model,
        device,
        mirror=mirror,
        fast=fast,
        max_memory=limit,
        backend=backend,
        precision=precision,
        accept_loss=accept_loss,
        listener=listener,
    )
    if fast:
        listener.say(opened.description.cost_of_speed())
    cases = find_cases(images, len(opened.plan.channel_names))
    for message in overlooked(images):
        listener.warn(message)
    listener.stage(f"Segmenting {len(cases)} image{'s' * (len(cases) > 1)} with {opened.description.name}")
    done = predict_cases(opened, cases, output, listener, overwrite=overwrite)
    listener.close()
    for problem in done.problems:
        console.print(f"error: {problem}", markup=False, highlight=False)
    rest = {"kept": done.kept, "not made": len(cases) - done.written - done.kept}
    others = "".join(f", {count} {what}" for what, count in rest.items() if count)
    console.print(f"{done.written} of {len(cases)} label maps written to {output}{others}", markup=False)
    if done.problems:
        raise typer.Exit(2)


@app.command()
def quantize(
    model: Annotated[Path, typer.Argument(help="A run or a model folder.")],
    dataset: Annotated[Optional[Path], typer.Argument(help="Labelled cases; default: the run's dataset.")] = None,  # noqa: UP045
    tiles: Annotated[int, typer.Option(min=1, help="Calibration patches for each network.")] = 128,
) -> None:
    """Make the INT8 form of a model for fast prediction on CPUs, and measure what it costs in Dice."""
    from voxfit.running.quantization import quantize as make
    from voxfit.tables import print_quantization

    console, listener = _console()
    made = make(model, dataset, listener, tiles=tiles)
    listener.close()
    print_quantization(console, made)
    console.print(f"Next:    voxfit predict {model} IMAGES -o OUT --precision int8", markup=False)


@app.command()
def evaluate(
    predictions: Path,
    labels: Annotated[Path, typer.Argument(help="Folder of reference labels.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="JSON file; the CSV stands beside it.")] = Path(
        "scores.json"
    ),
    tolerance: Annotated[float, typer.Option(min=0, help="Of the surface Dice, mm.")] = 1.0,
    metric: Annotated[Optional[list[str]], typer.Option(help="Of another package; may be given again.")] = None,  # noqa: UP045
    workers: Workers = None,
) -> None:
    """Score label maps against references: Dice, Hausdorff 95, surface Dice, volumes."""
    from voxfit.assessment.evaluation import evaluate as compare
    from voxfit.assessment.evaluation import files_in
    from voxfit.assessment.scores import require_place, save_scores
    from voxfit.imaging.labels import some
    from voxfit.imaging.protection import protect
    from voxfit.tables import print_scores

    console, listener = _console()
    protect(require_place(output), [*files_in(predictions), *files_in(labels)])
    others = tuple(metric or ())
    scores = compare(
        predictions,
        labels,
        tolerance_mm=tolerance,
        workers=workers,
        progress=listener.progress,
        other_metrics=others,
    )
    listener.close()
    table = save_scores(scores, output)
    print_scores(console, scores)
    for warning in scores.warnings:
        listener.warn(warning)
    if scores.missing:
        listener.warn(
            f"{len(scores.missing)} of {len(scores.missing) + len(scores.cases)} references have no prediction and "
            f"count nowhere: {some(scores.missing)}."
        )
    console.print(f"Written to {output} and {table}", markup=False)


@app.command()
def report(run: Path) -> None:
    """Write the report of a finished run again."""
    from voxfit.running.reporting import write_run_report

    _console()[0].print(f"Written to {write_run_report(run)}", markup=False)


@app.command()
def sheet(
    run: Path,
    output: Annotated[Path, typer.Option("-o", "--output", help="PNG file.")] = Path("sheet.png"),
    configuration: Annotated[str, typer.Option(help="2d, 3d, ...")] = "3d",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")] = False,
) -> None:
    """Draw augmented training patches of a run, with the outlines of their labels."""
    from voxfit.imaging.protection import protect
    from voxfit.running.contact_sheet import draw_contact_sheet
    from voxfit.running.reporting import files_of_dataset

    if output.suffix.lower() != ".png":
        raise UsageError(f"-o {output}: name a PNG file.")
    protect([output], files_of_dataset(run))
    if output.exists() and not overwrite:
        raise UsageError(f"-o {output}: is there already. Name another file, or replace it with --overwrite.")
    draw_contact_sheet(run, configuration, output)
    _console()[0].print(f"Written to {output}", markup=False)


@app.command()
def status(run: Path) -> None:
    """Say what a run folder holds and what is still missing."""
    from voxfit.running.status import describe

    console, _ = _console()
    for line in describe(run):
        console.print(line, markup=False, highlight=False)


@importing.command("nnunet")
def import_nnunet(
    folder: Annotated[Path, typer.Argument(help="DatasetXXX_Name/Trainer__Plans__configuration.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The new model folder.")],
    folds: Annotated[Optional[str], typer.Option(help="0,1,...; default: all that were trained.")] = None,  # noqa: UP045
) -> None:
    """Make a model of a results folder of nnU-Net v2; nothing in its files is executed."""
    from voxfit.interop.nnunet_model import import_nnunet as convert
    from voxfit.options import parse_numbers

    made = convert(folder, output, parse_numbers(folds, "--folds") if folds else None)
    console, _ = _console()
    console.print(f"Model:   {made}\nNext:    voxfit predict {made} IMAGES -o OUT", markup=False)


@app.command()
def export(
    run: Path,
    output: Annotated[Path, typer.Option("-o", "--output", help="A new folder.")],
    form: Annotated[Literal["nnunet"], typer.Option("--format")] = "nnunet",
    number: Annotated[int, typer.Option(help="Of the dataset, for nnU-Net.")] = 900,
) -> None:
    """Write a run's dataset, split and out-of-fold predictions as another program wants them."""
    from voxfit.interop.nnunet_export import export_nnunet

    console, listener = _console()
    raw = export_nnunet(run, output, number, listener.progress)
    listener.close()
    console.print(f"Written to {output}; the raw dataset is {raw}", markup=False)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for everything.")] = Path("demo"),
    flavour: Literal["mr", "ct"] = "mr",
    epochs: Annotated[int, typer.Option(min=1, help="Of the training, 50 small steps each.")] = 8,
    device: Device = "auto",
) -> None:
    """Write a small synthetic dataset, fit it, segment its test images, and score them."""
    from voxfit.running.demo import run_demo
    from voxfit.tables import print_scores, print_selection

    console, listener = _console()
    result = run_demo(output, flavour, epochs, device, listener)
    listener.close()
    print_selection(console, result.fit.selection)
    print_scores(console, result.scores)
    for what, path in result.paths.items():
        console.print(f"{what:<12}{path}", markup=False, highlight=False)


def _console() -> tuple[Console, ConsoleListener]:
    from voxfit.console import ConsoleListener, make_console

    console = make_console()
    return console, ConsoleListener(console)

"""What was asked of `fit`: checked before anything is done, and kept in the run folder for whoever goes on."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, get_args

from voxfit.core.errors import UsageError
from voxfit.core.extensions import Kind, extension
from voxfit.core.layout import Layout
from voxfit.core.records import Record
from voxfit.imaging.dataset import Dataset
from voxfit.imaging.protection import FOLDERS, identity_of
from voxfit.planning.architecture import UNET
from voxfit.planning.plan import ConfigurationName, Limits
from voxfit.planning.recipes import DICE_CROSS_ENTROPY, Recipe, recipe_named
from voxfit.running.request import FitRequest

_UNITS = (("d", 86400), ("h", 3600), ("m", 60))
_ARTEFACTS = (*get_args(ConfigurationName), "store", "ensembles", "model", "superseded")


class FitCommand(Record):
    """The options of the last `fit` of a run folder; the attributes are those of `FitRequest`.

    `recipe_file` is a recipe that has no name, in the run folder; empty for one that has.
    """

    schema_name: ClassVar[str] = "voxfit.command/1"
    dataset: str
    configurations: tuple[str, ...] | None
    folds: tuple[int, ...] | None
    recipe: str
    recipe_file: str
    seed: int
    epochs: int | None
    budget_seconds: float | None
    device: str
    limits: Limits | None
    group_by: str | None
    workers: int | None
    deterministic: bool
    skip_bad_cases: bool

    def words(self, run: Path) -> str:
        """The command as it is typed."""
        parts = ["voxfit", "fit", self.dataset, "-o", str(run)]
        options: dict[str, object] = {
            "--configurations": ",".join(self.configurations or ()),
            "--folds": ",".join(map(str, self.folds or ())),
            "--recipe": str(run / self.recipe_file) if self.recipe_file else self.recipe,
            "--seed": "" if self.recipe_file else self.seed or "",
            "--epochs": self.epochs or "",
            "--budget": _time(self.budget_seconds) if self.budget_seconds else "",
            "--device": self.device,
            "--group-by": self.group_by or "",
            "--workers": self.workers or "",
        }
        usual = {"--recipe": recipe_named(Recipe().planner).name, "--device": "auto"}
        for option, value in options.items():
            if str(value) not in ("", usual.get(option)):
                parts += [option, str(value)]
        for key, value in (self.limits.model_dump(mode="json") if self.limits else {}).items():
            if value != getattr(Limits(), key):
                parts += ["--limit", f"{key}={'null' if value is None else value}"]
        parts += ["--deterministic"] * self.deterministic + ["--skip-bad-cases"] * self.skip_bad_cases
        return shlex.join(parts)


def record_command(request: FitRequest, layout: Layout, *, accepted: bool) -> None:
    """Write `command.json`; where something is trained, only once a command is accepted that may make it unfit."""
    if layout.training.exists() and not accepted:
        return
    recipe = request.recipe
    named = recipe.name == recipe.planner and recipe == recipe_named(recipe.planner).revised(seed=recipe.seed)
    asked = {name: getattr(request, name) for name in FitCommand.model_fields if hasattr(request, name)}
    command = FitCommand.model_validate(
        asked
        | {"dataset": str(Path(request.dataset).absolute()), "recipe": recipe.name, "seed": recipe.seed}
        | {"recipe_file": "" if named else layout.asked_recipe.name}
    )
    if not named:
        recipe.keep(layout.asked_recipe)
    command.keep(layout.command)


def check_request(request: FitRequest) -> None:
    """Refuse what could not be done whatever the dataset is, before anything is written or measured.

    Raises:
        UsageError: there is no such configuration or device.
    """
    from voxfit.inference.device import choose_device

    known = get_args(ConfigurationName)
    for name in request.configurations or ():
        if name not in known:
            raise UsageError(f"--configurations {name}: there are {', '.join(known)}.")
    choose_device(request.device)
    check_extensions(request.recipe)


def check_extensions(recipe: Recipe) -> None:
    """Refuse a recipe that names what no installed package offers.

    Raises:
        UsageError: naming it.
    """
    named: list[tuple[Kind, str]] = [("network", recipe.network)] * (recipe.network != UNET)
    named += [("loss", recipe.loss)] * (recipe.loss != DICE_CROSS_ENTROPY)
    named += [("augmentation", name) for name in recipe.augmentations] + [("metric", name) for name in recipe.metrics]
    try:
        for kind, name in named:
            extension(kind, name)
    except UsageError as error:
        raise UsageError(f"--recipe {recipe.name}: {error}") from None


def check_folds(request: FitRequest, dataset: Dataset) -> None:
    """Refuse folds that a dataset does not have, before it is read; there may be fewer where cases are left out.

    Raises:
        UsageError: there is no such fold.
    """
    groups = {case.group or case.name for case in dataset.cases}
    check_fold_numbers(request, len(dataset.splits) or min(request.recipe.folds, len(groups)))


def check_fold_numbers(request: FitRequest, count: int) -> tuple[int, ...]:
    """The folds that are asked for, of `count`.

    Raises:
        UsageError: there is no such fold.
    """
    wanted = range(count) if request.folds is None else request.folds
    for fold in wanted:
        if fold not in range(count):
            raise UsageError(f"--folds {fold}: there are the folds 0 to {count - 1}.")
    return tuple(sorted(set(wanted)))


def check_place(dataset: Path, run: Path) -> None:
    """Refuse a run folder in the dataset, and a dataset in what a run replaces, by whatever path, links included.

    Raises:
        UsageError: with both.
    """
    if _shared([dataset, *(dataset / name for name in FOLDERS)], _with_parents(run)):
        raise UsageError(
            f"-o {run}: is in the dataset {dataset}, where nothing is written. Choose a run folder elsewhere with -o."
        )
    if _shared([run / name for name in _ARTEFACTS], _with_parents(dataset)):
        raise UsageError(
            f"{dataset}: the dataset is in the run folder {run}, among what a run replaces. Move one of them."
        )


def _shared(some: Iterable[Path], others: Iterable[Path]) -> bool:
    """Whether a folder is among both."""
    return bool({*map(identity_of, some)} & {*map(identity_of, others)} - {None})


def _with_parents(path: Path) -> list[Path]:
    path = path.resolve()
    return [path, *path.parents]


def _time(seconds: float) -> str:
    """A time as `--budget` takes it."""
    for unit, length in _UNITS:
        if seconds % length == 0:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"

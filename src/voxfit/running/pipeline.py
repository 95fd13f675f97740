"""The method, top to bottom: one function per artefact, each made or found. Running again is resuming."""

from __future__ import annotations

import os
import shutil
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import ClassVar

import safetensors.torch

from voxfit.assessment.selection import Selection, choose
from voxfit.core.errors import UsageError
from voxfit.core.listening import Listener
from voxfit.core.records import Record, digest_of, write_atomically
from voxfit.imaging.dataset import Dataset
from voxfit.imaging.verification import verify_folds
from voxfit.inference.model import choose_device
from voxfit.learning.training import Training, TrainingTask, measure_step
from voxfit.planning.fingerprint import Fingerprint
from voxfit.planning.folds import Folds, split, split_origin
from voxfit.planning.plan import Configuration, ConfigurationName, Grid, Plan
from voxfit.planning.planner import make_plan, plan_origin
from voxfit.planning.recipe import Recipe
from voxfit.preprocessing.store import Store, StoreManifest
from voxfit.running.assembly import assemble
from voxfit.running.budget import counted_recipe, fit_to_budget, training_seconds, words
from voxfit.running.cases import fill_store, measure_dataset, report_problems
from voxfit.running.reporting import record_dataset, write_run_report
from voxfit.running.request import FitRequest, FitResult
from voxfit.running.validation import candidates, cross_validate, previous_stage
from voxfit.running.workspace import Workspace


class FoldManifest(Record):
    """A finished training."""

    schema_name: ClassVar[str] = "voxfit.fold/1"
    made_from: str
    epochs: int
    seconds: float
    validation_cases: tuple[str, ...]


class Run:
    """One run folder and what was asked of it; every artefact is made when it is first wanted."""

    def __init__(self, request: FitRequest, listener: Listener | None = None) -> None:
        self.begun = monotonic()
        self.request = request
        self.listener = listener or Listener()
        self.root = Path(request.run)
        self.workspace = Workspace(self.root)

    # -- what the dataset is --------------------------------------------------------------------------------------

    @cached_property
    def dataset(self) -> Dataset:
        """The dataset's description; everything wrong with it is one error."""
        dataset = Dataset.open(self.request.dataset, self.request.group_by)
        problems = [*dataset.problems, *verify_folds(dataset, self.request.recipe.folds)]
        report_problems(problems, self.listener)
        record_dataset(dataset, self.root / "dataset.json")
        return dataset

    @cached_property
    def files(self) -> str:
        """Digest of the training files, by name, size and time of change."""
        return digest_of([_stamp(path) for case in self.dataset.cases for path in (*case.images, case.label or "")])

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Every training case verified and measured, in one pass."""
        path = self.root / "fingerprint.json"
        origin = digest_of([self.files, self.dataset.labels.digest(), self.dataset.channel_names])
        if path.exists():
            found = Fingerprint.load(path)
            if found.made_from == origin:
                return found
            self.workspace.set_aside(path)
        self.listener.stage(f"Checking and measuring {len(self.dataset.cases)} cases")
        fingerprint = measure_dataset(self.dataset, self.listener, self.request.workers, origin)
        fingerprint.save(path)
        return fingerprint

    @cached_property
    def folds(self) -> Folds:
        """The split of the training cases."""
        path = self.root / "folds.json"
        wanted = (self.dataset.cases, self.request.recipe.folds, self.request.recipe.seed)
        if path.exists():
            found = Folds.load(path)
            if found.made_from == split_origin(*wanted):
                return found
            self.workspace.set_aside(path)
        folds = split(*wanted)
        folds.save(path)
        return folds

    # -- what is done with it -------------------------------------------------------------------------------------

    @cached_property
    def base_plan(self) -> Plan:
        """The plan: the one in the run folder (perhaps edited), or a new one where it no longer fits."""
        path = self.root / "plan.json"
        fingerprint, limits = self.fingerprint, self.request.limits
        if path.exists():
            found = Plan.load(path)
            same = found.made_from == plan_origin(fingerprint, limits or found.limits)
            if same and found.fitted_to in ("", self.budget_digest):
                return found
            limits = limits or found.limits
            old = self.workspace.set_aside(path)
            self.listener.say(f"The plan no longer fits what is asked for; the old one is now {old}.")
        plan = make_plan(fingerprint, limits)
        plan.save(path)
        return plan

    @cached_property
    def budget_digest(self) -> str:
        """What a budget is for: another budget, other models or another recipe make another plan."""
        if not self.request.budget_seconds:
            return ""
        wanted = [self.request.budget_seconds, self.request.configurations, self.request.folds]
        return digest_of([wanted, self.request.recipe.digest()])

    @cached_property
    def settings(self) -> tuple[Plan, Recipe]:
        """Plan and recipe of the trainings; a budget has been worked into both."""
        plan, request, path = self.base_plan, self.request, self.root / "recipe.json"
        recipe = counted_recipe(request.recipe, request.epochs) if request.epochs else request.recipe
        if request.budget_seconds:
            if plan.fitted_to == self.budget_digest and path.exists():
                return plan, Recipe.load(path)
            for name in self.configurations:
                self.store(plan.grid(name))
            self.listener.stage("Fitting batch and width to the budget")
            fitted = fit_to_budget(
                plan,
                recipe,
                {name: len(self.folds_of(name)) for name in self.configurations},
                seconds=request.budget_seconds - (monotonic() - self.begun),
                validation_cases=max(len(names) for names in self.folds.validation),
                timer=self._time_step,
            )
            plan = fitted.plan.model_copy(update={"fitted_to": self.budget_digest})
            recipe = fitted.recipe
            for change in plan.changes:
                self.listener.say(change)
            recipe.save(path)
            plan.save(self.root / "plan.json")
        recipe.save(path)
        return plan, recipe

    @cached_property
    def configurations(self) -> tuple[ConfigurationName, ...]:
        """The models asked for."""
        offered = self.base_plan.configurations
        wanted = self.request.configurations or tuple(offered)
        for name in wanted:
            if name not in offered:
                raise UsageError(
                    f"--configurations {name}: the plan of this dataset offers {', '.join(offered)}."
                    + (" A cascade is offered only where cases are large." if name.startswith("3d_") else "")
                )
        stages = {offered[name].previous for name in offered if name in wanted}
        return tuple(name for name in offered if name in wanted or name in stages)

    def folds_of(self, name: ConfigurationName) -> tuple[int, ...]:
        """The folds that are trained: those asked for; all of a first stage, for every case needs its segmentation."""
        stages = {self.base_plan.configurations[other].previous for other in self.configurations}
        return tuple(range(len(self.folds.validation))) if name in stages else self.fold_numbers

    @cached_property
    def fold_numbers(self) -> tuple[int, ...]:
        """The folds asked for."""
        count = len(self.folds.validation)
        wanted = range(count) if self.request.folds is None else self.request.folds
        for fold in wanted:
            if fold not in range(count):
                raise UsageError(f"--folds {fold}: there are the folds 0 to {count - 1}.")
        return tuple(sorted(set(wanted)))

    @cached_property
    def device(self) -> str:
        """Where networks run."""
        return choose_device(self.request.device)

    # -- the artefacts --------------------------------------------------------------------------------------------

    def store(self, grid: Grid) -> Store:
        """All training cases prepared for a grid, on disk."""
        folder = self.root / "store" / grid.folder
        origin = digest_of([grid.digest(), self.files, self.dataset.labels.digest()])
        if (folder / "manifest.json").exists() and StoreManifest.load(folder / "manifest.json").made_from == origin:
            return Store(folder)
        self.listener.stage(f"Preparing {len(self.dataset.cases)} cases at {folder.name} mm")
        with self.workspace.building(folder, origin) as part:
            fill_store(self.dataset, grid, part, self.listener, self.request.workers, origin)
        return Store(folder)

    def task(self, name: ConfigurationName, fold: int) -> TrainingTask:
        """What is trained on one fold."""
        plan, recipe = self.settings
        return TrainingTask(
            name=f"{name} fold {fold}",
            topology=plan.topology(name),
            configuration=plan.configurations[name],
            recipe=recipe,
            training_cases=self.folds.training(fold),
            validation_cases=self.folds.validation[fold],
            seed=int(digest_of([recipe.seed, name, fold])[:8], 16),
        )

    def fold_origin(self, name: ConfigurationName, fold: int) -> str:
        """Digest of what determines the weights of a fold."""
        plan, _ = self.settings
        previous = plan.configurations[name].previous
        stage = [self.fold_origin(previous, other) for other in self.folds_of(previous)] if previous else []
        return digest_of([self.task(name, fold).digest(), plan.grid(name).digest(), self.files, stage])

    def fold_folder(self, name: ConfigurationName, fold: int) -> Path:
        """Where a fold is trained; `weights.safetensors` is there once it is finished."""
        return self.root / name / f"fold_{fold}"

    def is_trained(self, name: ConfigurationName, fold: int) -> bool:
        """Whether the weights of a fold are there and fit the plan."""
        path = self.fold_folder(name, fold) / "manifest.json"
        return path.exists() and FoldManifest.load(path).made_from == self.fold_origin(name, fold)

    def train(self, name: ConfigurationName, fold: int) -> Path:
        """The trained weights of one fold."""
        folder = self.fold_folder(name, fold)
        weights = folder / "weights.safetensors"
        if self.is_trained(name, fold):
            return weights
        if (folder / "manifest.json").exists():
            self.listener.say(f"{name} fold {fold} was trained with other settings; it is kept under superseded/.")
            self.workspace.set_aside(folder)
        plan, _ = self.settings
        task = self.task(name, fold)
        self.listener.stage(f"Training {task.name}")
        training = Training(
            task, self.store(plan.grid(name)), folder, self.device, self.listener, previous_stage(self, name)
        )
        network = training.run()
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
        write_atomically(weights, safetensors.torch.save(tensors))
        FoldManifest(
            made_from=self.fold_origin(name, fold),
            epochs=training.progress.epoch,
            seconds=round(training.progress.seconds, 1),
            validation_cases=task.validation_cases,
        ).save(folder / "manifest.json")
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)
        return weights

    def select(self) -> Selection:
        """Cross-validation of every model and every pair, and the choice."""
        for name in self.configurations:
            cross_validate(self, name)
        found = candidates(self)
        origin = digest_of([candidate.digest() for candidate in found])
        path = self.root / "selection.json"
        if path.exists() and Selection.load(path).made_from == origin:
            return Selection.load(path)
        self.workspace.set_aside(path)
        selection = choose(found, origin)
        selection.save(path)
        return selection

    def _time_step(self, name: ConfigurationName, configuration: Configuration) -> float:
        plan = self.base_plan.model_copy(update={"configurations": {name: configuration}})
        recipe = self.request.recipe
        task = TrainingTask(
            name=name,
            topology=plan.topology(name),
            configuration=configuration,
            recipe=recipe,
            training_cases=(),
            validation_cases=(),
            seed=0,
        )
        return measure_step(task, self.device)

    def announce(self) -> None:
        """Say what the trainings that are left will take on this device, and what to do if that is too long."""
        plan, recipe = self.settings
        left: dict[ConfigurationName, int] = {
            name: sum(not self.is_trained(name, fold) for fold in self.folds_of(name)) for name in self.configurations
        }
        left = {name: count for name, count in left.items() if count}
        if not left:
            return
        seconds = training_seconds(plan, recipe, left, self._time_step)
        self.listener.say(
            f"Training {sum(left.values())} model{'s' * (sum(left.values()) > 1)} on {self.device}: "
            f"{words(seconds)} at most."
        )
        if seconds > 48 * 3600:
            self.listener.warn(
                "That is the paper's schedule on this device. For less: --budget 2h (all in that time), --epochs 50, "
                "--configurations 3d (fewer models), --folds 0 (one fold), or a machine with a GPU."
            )


def fit(request: FitRequest, listener: Listener | None = None) -> FitResult:
    """The whole method: check, plan, prepare, train, cross-validate, select. What is there already is kept.

    Args:
        request: what to do.
        listener: hears of the progress.

    Raises:
        DatasetError: the dataset cannot be trained on; all problems at once, before any training.
        UsageError, WorkspaceError: the request or the run folder is unusable.
    """
    run = Run(request, listener)
    with run.workspace.lock():
        for name in run.configurations:
            run.store(run.base_plan.grid(name))
        run.announce()
        for name in run.configurations:
            for fold in run.folds_of(name):
                run.train(name, fold)
            # A cascade's second stage is trained on what this says of cases it has not seen.
            cross_validate(run, name)
        selection = run.select()
        model = assemble(run, selection)
        report = run.root / "report.html"
        if not report.exists() or report.stat().st_mtime < (model / "model.json").stat().st_mtime:
            run.listener.stage("Writing the report")
            write_run_report(run.root)
        return FitResult(selection, model, run.root)


def _stamp(path: str) -> list[str | int]:
    try:
        status = os.stat(path)
    except OSError:
        return [path, -1, -1]
    return [Path(path).name, status.st_size, status.st_mtime_ns]

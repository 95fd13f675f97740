"""The method, top to bottom: one function per artefact, each made or found. Running again is resuming.

What needs torch is imported where it is used: everything up to the prepared store does without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from time import monotonic

from voxfit.assessment.selection import Selection, choose
from voxfit.core.errors import RecordError, UsageError
from voxfit.core.listening import Listener
from voxfit.core.records import digest_of
from voxfit.imaging.dataset import Dataset
from voxfit.imaging.verification import empty_folds, verify_folds
from voxfit.planning.fingerprint import Fingerprint
from voxfit.planning.folds import Folds, split
from voxfit.planning.grid import Grid
from voxfit.planning.plan import ConfigurationName, Plan
from voxfit.planning.planners import plan_by, plan_origin
from voxfit.planning.recipe import Recipe
from voxfit.preprocessing.store import Store
from voxfit.running.budget import counted_recipe, fit_to_budget
from voxfit.running.cases import Destination, digest_of_files, fill_stores, measure_dataset, report_problems
from voxfit.running.command import check_fold_numbers, check_folds, check_place, check_request, record_command
from voxfit.running.present import Present, eligible, unseen_classes
from voxfit.running.reporting import record_dataset, write_run_report
from voxfit.running.request import FitRequest, FitResult
from voxfit.running.sharing import share_among_folds, shared_now
from voxfit.running.space import check_space
from voxfit.running.stopwatch import Stopwatch
from voxfit.running.workspace import Workspace


class Run:
    """One run folder and what was asked of it; every artefact is made when it is first wanted."""

    def __init__(self, request: FitRequest, listener: Listener | None = None) -> None:
        self.begun = monotonic()
        self.request = request
        self.listener = listener or Listener()
        self.root = Path(request.run)
        check_place(Path(request.dataset), self.root)
        self.workspace = Workspace(self.root)
        self._stores: dict[str, Store] = {}

    # -- what the dataset is --------------------------------------------------------------------------------------

    @cached_property
    def described(self) -> Dataset:
        """The dataset as its description has it; everything wrong with that is one error."""
        dataset = Dataset.open(self.request.dataset, self.request.group_by)
        skippable = self.request.skip_bad_cases
        report_problems([item for item in dataset.problems if not (skippable and item.case)], self.listener)
        report_problems(verify_folds(dataset, self.request.recipe.folds), self.listener)
        return dataset

    @cached_property
    def dataset(self) -> Dataset:
        """The dataset without the cases that are skipped."""
        skipped = self.fingerprint.skipped
        for case in skipped:
            self.listener.warn(f"{case.name} is left out: {' '.join(case.reasons)}")
        dataset = self.described.without({case.name for case in skipped})
        if skipped:
            report_problems([*verify_folds(dataset, self.request.recipe.folds), *empty_folds(dataset)], self.listener)
        record_dataset(dataset, self.root / "dataset.json", skipped, digest_of_files(dataset))
        return dataset

    @cached_property
    def files(self) -> str:
        """Digest of the training files, by name, size and time of change."""
        return digest_of_files(self.dataset)

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Every training case verified and measured, in one pass."""
        path = self.root / "fingerprint.json"
        dataset, skip = self.described, self.request.skip_bad_cases
        origin = digest_of([digest_of_files(dataset), dataset.labels.digest(), dataset.channel_names])
        if path.exists():
            found = Fingerprint.load(path)
            # Without the wish to skip, the cases that were skipped are looked at again, and are an error.
            if found.made_from == origin and (skip or not found.skipped):
                return found
            self.workspace.set_aside(path)
        self.listener.stage(f"Checking and measuring {len(dataset.cases)} cases")
        fingerprint = measure_dataset(dataset, self.listener, self.request.workers, origin, skip=skip)
        fingerprint.save(path)
        return fingerprint

    @cached_property
    def folds(self) -> Folds:
        """The split of the training cases."""
        path = self.root / "folds.json"
        recipe = self.request.recipe
        folds = split(self.dataset.cases, recipe.folds, recipe.seed, self.dataset.splits, self.fingerprint.classes)
        if path.exists() and (found := Folds.load(path)).made_from == folds.made_from:
            folds = found
        else:
            self.workspace.set_aside(path)
            folds.save(path)
        report_problems(unseen_classes(folds, self.fingerprint.classes, self.dataset.labels), self.listener)
        return folds

    # -- what is done with it -------------------------------------------------------------------------------------

    @cached_property
    def base_plan(self) -> Plan:
        """The plan: the one in the run folder (perhaps edited), or a new one where it no longer fits."""
        path = self.root / "plan.json"
        fingerprint, limits, planner = self.fingerprint, self.request.limits, self.request.recipe.planner
        if path.exists():
            found = Plan.load(path)
            same = found.made_from == plan_origin(planner, fingerprint, limits or found.limits)
            if same and found.fitted_to in ("", self.budget_digest):
                return found
            limits = limits or found.limits
            plan = plan_by(planner, fingerprint, limits)  # first: killed below, its limits would be lost
            old = self.workspace.set_aside(path)
            self.listener.say(f"The plan no longer fits what is asked for; the old one is now {old}.")
        else:
            plan = plan_by(planner, fingerprint, limits)
        plan.save(path)
        return plan

    @cached_property
    def budget_digest(self) -> str:
        """What a budget is for: another budget, other models or another recipe make another plan; folds do not."""
        if not self.request.budget_seconds:
            return ""
        models = sorted(set(self.request.configurations)) if self.request.configurations else None
        wanted = [self.request.budget_seconds, models]
        return digest_of([wanted, self.request.recipe.digest()])

    @cached_property
    def settings(self) -> tuple[Plan, Recipe]:
        """Plan and recipe of the trainings; a budget has been worked into both."""
        plan, request, path = self.base_plan, self.request, self.root / "recipe.json"
        recipe = counted_recipe(request.recipe, request.epochs) if request.epochs else request.recipe
        if request.budget_seconds:
            for name in self.configurations:
                self.store(plan.grid(name))
            if plan.fitted_to == self.budget_digest and path.exists():
                return share_among_folds(self, plan, Recipe.load(path))
            from voxfit.running.folds import time_step

            self.listener.stage("Fitting batch and width to the budget")
            fitted = fit_to_budget(
                plan,
                recipe,
                {name: len(self.folds_of(name)) for name in self.configurations},
                seconds=request.budget_seconds - (monotonic() - self.begun),
                validation_cases=max(len(names) for names in self.folds.validation),
                timer=partial(time_step, self),
            )
            plan = fitted.plan.model_copy(update={"fitted_to": self.budget_digest})
            recipe = fitted.recipe
            for change in plan.changes:
                self.listener.say(change)
            recipe.save(path)
            plan.save(self.root / "plan.json")
            shared_now(self).save(self.root / "budget.json")
        recipe.save(path)
        return plan, recipe

    def presently(self, plan: Plan, recipe: Recipe) -> Present:
        """What trainings must be made from under a plan and a recipe."""
        return Present(self.root, plan, recipe, self.folds, self.files, self.fingerprint.classes)

    @property
    def present(self) -> Present:
        """What trainings and cross-validations must be made from now; an out-of-memory training may change it."""
        return self.presently(*self.settings)

    def revise(self, plan: Plan) -> None:
        """Go on with a plan that was changed in the middle of the run, and record it for the next."""
        plan.save(self.root / "plan.json")
        self.base_plan, self.settings = plan, (plan, self.settings[1])

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
        stages = {offered[name].previous for name in offered if name in wanted} - {None}
        validated = {case for names in self.folds.validation for case in names}
        if stages and (missing := [case.name for case in self.dataset.cases if case.name not in validated]):
            raise UsageError(
                f"splits_final.json validates {missing[0]} in no fold, but a cascade needs the first stage's "
                "segmentation of every case. Complete the split, or leave 3d_cascade out of --configurations."
            )
        return tuple(name for name in offered if name in wanted or name in stages)

    def folds_of(self, name: ConfigurationName) -> tuple[int, ...]:
        """The folds that are trained: those asked for; all of a first stage, for every case needs its segmentation."""
        stages = {self.base_plan.configurations[other].previous for other in self.configurations}
        return tuple(range(len(self.folds.validation))) if name in stages else self.fold_numbers

    @cached_property
    def fold_numbers(self) -> tuple[int, ...]:
        """The folds asked for."""
        return check_fold_numbers(self.request, len(self.folds.validation))

    @cached_property
    def device(self) -> str:
        """Where networks run."""
        from voxfit.inference.device import choose_device

        return choose_device(self.request.device)

    # -- the artefacts --------------------------------------------------------------------------------------------

    def store(self, grid: Grid) -> Store:
        """All training cases prepared for a grid, on disk."""
        self._prepare([grid])
        return self._stores[grid.digest()]

    def prepare(self) -> None:
        """The stores of all models asked for."""
        self._prepare([self.base_plan.grid(name) for name in self.configurations])

    def _prepare(self, grids: Sequence[Grid]) -> None:
        wanted = {grid.digest(): grid for grid in grids}
        missing = []
        for key, grid in wanted.items():
            origin = digest_of([key, self.files, self.dataset.labels.digest()])
            folder = self.root / "store" / grid.folder
            if key not in self._stores and not self._find_store(key, folder, origin):
                missing.append(Destination(grid, folder, origin))
        if not missing:
            return
        spacings = " and ".join(place.folder.name for place in missing)
        self.listener.stage(f"Preparing {len(self.dataset.cases)} cases at {spacings} mm")
        with ExitStack() as stack:
            parts = [stack.enter_context(self.workspace.building(place.folder, place.made_from)) for place in missing]
            destinations = [replace(place, folder=part) for place, part in zip(missing, parts, strict=True)]
            fill_stores(self.dataset, destinations, self.listener, self.request.workers)
        self._stores |= {place.grid.digest(): Store(place.folder) for place in missing}

    def _find_store(self, key: str, folder: Path, origin: str) -> bool:
        """Whether a store is there, made from the same."""
        if not (folder / "manifest.json").exists():
            return False
        try:
            found = Store(folder)
        except RecordError as error:  # damaged, or written by a voxfit that had another form of it
            self.listener.warn(f"{error} The cases are prepared again.")
            return False
        if found.manifest.made_from == origin:
            self._stores[key] = found
        return key in self._stores

    def select(self) -> Selection:
        """Cross-validation of every model and every pair, and the choice."""
        from voxfit.running.validation import candidates, cross_validate

        for name in self.configurations:
            cross_validate(self, name)
        found, present = candidates(self), self.present
        origin = present.selection_origin(self.configurations)
        path = self.root / "selection.json"
        if path.exists() and Selection.load(path).made_from == origin:
            return Selection.load(path)
        self.workspace.set_aside(path)
        compared = present.shared_folds(eligible(self.configurations))
        selection = choose(found, origin, (len(compared), len(present.fold_numbers)))
        selection.save(path)
        return selection


def fit(request: FitRequest, listener: Listener | None = None) -> FitResult:
    """The whole method: check, plan, prepare, train, cross-validate, select. What is there already is kept.

    Args:
        request: what to do.
        listener: hears of the progress.

    Raises:
        DatasetError: the dataset cannot be trained on; all problems at once, before any training.
        UsageError, WorkspaceError: the request or the run folder is unusable.
    """
    check_request(request)
    run = Run(request, listener)
    watch = Stopwatch(run.begun)
    from voxfit.learning.engine import determinism

    with run.workspace.lock(), determinism(request.deterministic):
        check_folds(request, run.described)
        record_command(request, run.root)
        check_space(
            run.root, run.fingerprint, run.base_plan, {name: len(run.folds_of(name)) for name in run.configurations}
        )
        run.prepare()
        watch.lap("checking and preparing")
        from voxfit.running.assembly import assemble
        from voxfit.running.folds import announce, train
        from voxfit.running.validation import cross_validate

        left = announce(run)
        watch.lap("measuring the device")
        for name in run.configurations:
            for fold in run.folds_of(name):
                train(run, name, fold)
            watch.lap("training")
            # A cascade's second stage is trained on what this says of cases it has not seen.
            cross_validate(run, name)
            watch.lap("cross-validation")
        selection = run.select()
        model = assemble(run, selection)
        report = run.root / "report.html"
        if not report.exists() or report.stat().st_mtime < (model / "model.json").stat().st_mtime:
            run.listener.stage("Writing the report")
            write_run_report(run.root)
        watch.lap("choice, model and report")
        if request.budget_seconds and left:
            run.listener.say(watch.account(request.budget_seconds))
        return FitResult(selection, model, run.root)

"""The steps before the first training: open, measure, split, plan, prepare. None needs torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from voxfit.core.errors import UsageError
from voxfit.core.parallel import Executor
from voxfit.core.progress import Listener
from voxfit.core.records import digest_of
from voxfit.imaging.dataset import Dataset
from voxfit.imaging.verification import empty_folds, verify_folds
from voxfit.planning.fingerprint import Fingerprint
from voxfit.planning.folds import Folds, split
from voxfit.planning.plan import ConfigurationName, Limits, Plan
from voxfit.planning.planners import plan_by, plan_origin
from voxfit.preprocessing.store import Store, StoreManifest
from voxfit.running.artefacts import store_artefact
from voxfit.running.cases import Destination, digest_of_files, fill_stores, measure_dataset, report_problems
from voxfit.running.command import check_fold_numbers, check_place
from voxfit.running.experiment import unseen_classes
from voxfit.running.reporting import record_dataset
from voxfit.running.request import FitRequest
from voxfit.running.run_folder import Artefact, RunFolder

Models = Mapping[ConfigurationName, tuple[int, ...]]
"""The folds that are to be trained, of each configuration; a first stage comes before its second."""


def open_dataset(request: FitRequest, listener: Listener) -> Dataset:
    """The dataset as its description has it.

    Raises:
        DatasetError: with everything that is wrong with that.
    """
    dataset = Dataset.open(request.dataset, request.group_by)
    skippable = request.skip_bad_cases
    report_problems([item for item in dataset.problems if not (skippable and item.case)], listener)
    report_problems(verify_folds(dataset, request.recipe.folds), listener)
    return dataset


def measure(run: RunFolder, dataset: Dataset, request: FitRequest) -> Fingerprint:
    """Every training case verified and measured, in one pass.

    Raises:
        DatasetError: with every problem of every case.
    """
    origin = digest_of([digest_of_files(dataset), dataset.labels.digest(), dataset.channel_names])
    artefact = Artefact(run.layout.fingerprint, origin, Fingerprint)
    if request.skip_bad_cases and not artefact.fits():
        artefact = replace(artefact, inputs=digest_of([origin, "bad cases skipped"]))

    def make(_: Path) -> Fingerprint:
        run.listener.stage(f"Checking and measuring {len(dataset.cases)} cases")
        found = measure_dataset(dataset, run.listener, request.executor, origin, skip=request.skip_bad_cases)
        return found.revised(inputs_digest=artefact.inputs) if found.skipped else found

    return run.obtain(artefact, make)


def without_skipped(
    run: RunFolder, dataset: Dataset, fingerprint: Fingerprint, request: FitRequest
) -> tuple[Dataset, str]:
    """The dataset without the cases that are skipped, and the digest of its files; the run folder notes both.

    Raises:
        DatasetError: what is left cannot be trained on.
    """
    for case in fingerprint.skipped:
        run.listener.warn(f"{case.name} is left out: {' '.join(case.reasons)}")
    usable = dataset.without({case.name for case in fingerprint.skipped})
    if fingerprint.skipped:
        report_problems([*verify_folds(usable, request.recipe.folds), *empty_folds(usable)], run.listener)
    files = digest_of_files(usable)
    record_dataset(usable, run.layout.dataset, fingerprint.skipped, files)
    return usable, files


def split_cases(run: RunFolder, dataset: Dataset, fingerprint: Fingerprint, request: FitRequest) -> Folds:
    """The split of the training cases [T1]."""
    recipe = request.recipe
    folds = split(dataset.cases, recipe.folds, recipe.seed, dataset.splits, fingerprint.classes)
    folds = run.obtain(Artefact(run.layout.folds, folds.inputs_digest, Folds), lambda _: folds)
    report_problems(unseen_classes(folds, fingerprint.classes, dataset.labels), run.listener)
    return folds


def make_plan(run: RunFolder, fingerprint: Fingerprint, request: FitRequest) -> Plan:
    """What the rules say; or the plan in the run folder, perhaps edited, where it is of the same facts and limits."""
    planner, path = request.recipe.planner, run.layout.plan
    limits = request.limits or (Plan.load(path).limits if path.exists() else Limits())
    artefact = Artefact(path, plan_origin(planner, fingerprint, limits), Plan)
    if path.exists() and not artefact.fits():
        run.listener.say("The plan no longer fits what is asked for; the old one is kept under superseded/.")
    return run.obtain(artefact, lambda _: plan_by(planner, fingerprint, limits))


def models_of(plan: Plan, folds: Folds, dataset: Dataset, request: FitRequest) -> Models:
    """The trainings that are asked for; all folds of a first stage, for every case needs its segmentation.

    Raises:
        UsageError: there are no such configurations or folds, or a cascade's split leaves cases out.
    """
    names = _configurations(plan, request)
    stages = {plan.configurations[name].previous for name in names} - {None}
    validated = {case for part in folds.validation for case in part}
    if stages and (missing := [case.name for case in dataset.cases if case.name not in validated]):
        raise UsageError(
            f"splits_final.json validates {missing[0]} in no fold, but a cascade needs the first stage's "
            "segmentation of every case. Complete the split, or leave 3d_cascade out of --configurations."
        )
    every, wanted = tuple(range(len(folds.validation))), check_fold_numbers(request, len(folds.validation))
    return {name: every if name in stages else wanted for name in names}


def _configurations(plan: Plan, request: FitRequest) -> tuple[ConfigurationName, ...]:
    offered = plan.configurations
    wanted = request.configurations or tuple(offered)
    for name in wanted:
        if name not in offered:
            raise UsageError(
                f"--configurations {name}: the plan of this dataset offers {', '.join(offered)}."
                + (" A cascade is offered only where cases are large." if name.startswith("3d_") else "")
            )
    stages = {offered[name].previous for name in offered if name in wanted} - {None}
    return tuple(name for name in offered if name in wanted or name in stages)


def prepare(
    run: RunFolder,
    dataset: Dataset,
    files: str,
    plan: Plan,
    names: Sequence[ConfigurationName],
    executor: Executor,
) -> dict[ConfigurationName, Store]:
    """All training cases prepared for each configuration, on disk; a case is read once for all of them.

    Args:
        run: keeps them.
        dataset: the cases.
        files: digest of their files.
        plan: the grids.
        names: of the configurations.
        executor: where cases are prepared.
    """
    grids = {plan.grid(name).digest(): plan.grid(name) for name in names}
    artefacts = [store_artefact(run.layout, grid, files, dataset) for grid in grids.values()]

    def make(missing: Sequence[Artefact[StoreManifest]]) -> list[StoreManifest]:
        spacings = " and ".join(item.path.name for item in missing)
        run.listener.stage(f"Preparing {len(dataset.cases)} cases at {spacings} mm")
        by_folder = {grid.folder: grid for grid in grids.values()}
        destinations = [Destination(by_folder[item.path.name], item.part, item.inputs) for item in missing]
        return fill_stores(dataset, destinations, run.listener, executor)

    found = run.obtain_all(artefacts, make)
    stores = {key: Store(item.path, manifest) for key, item, manifest in zip(grids, artefacts, found, strict=True)}
    return {name: stores[plan.grid(name).digest()] for name in names}


def prepare_only(request: FitRequest, listener: Listener, *, stores: bool) -> Plan:
    """What `fit` does first: the plan of a dataset, and its prepared cases where they are wanted too."""
    check_place(Path(request.dataset), Path(request.run))
    run = RunFolder(Path(request.run), listener, restart=request.restart)
    with run.lock():
        dataset = open_dataset(request, listener)
        fingerprint = measure(run, dataset, request)
        plan = make_plan(run, fingerprint, request)
        if stores:
            dataset, files = without_skipped(run, dataset, fingerprint, request)
            prepare(run, dataset, files, plan, _configurations(plan, request), request.executor)
    return plan

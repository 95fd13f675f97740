"""The method, top to bottom. Running it again goes on: every artefact is found where it is, or made."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from time import monotonic

from voxfit.core.progress import Listener
from voxfit.inference.device import choose_device
from voxfit.learning.engine import determinism
from voxfit.planning.plan import ConfigurationName
from voxfit.running.artefacts import trained_folds
from voxfit.running.assembly import save_model
from voxfit.running.command import check_folds, check_place, check_request, record_command
from voxfit.running.experiment import Experiment
from voxfit.running.fitting import announce, fit_to_memory, left_to_train, settle
from voxfit.running.preparation import (
    make_plan,
    measure,
    models_of,
    open_dataset,
    prepare,
    split_cases,
    without_skipped,
)
from voxfit.running.reporting import write_report_of
from voxfit.running.request import FitRequest, FitResult
from voxfit.running.run_folder import RunFolder
from voxfit.running.selecting import select
from voxfit.running.space import check_space
from voxfit.running.stopwatch import Stopwatch
from voxfit.running.trainings import OutOfMemory, halve_batch, train
from voxfit.running.validation import OutOfFold, Validation, cross_validate


def fit(request: FitRequest, listener: Listener | None = None) -> FitResult:
    """The whole method: check, plan, prepare, train, cross-validate, select. What is there already is kept.

    Args:
        request: what to do.
        listener: hears of the progress.

    Raises:
        DatasetError: the dataset cannot be trained on; all problems at once, before any training.
        UsageError, WorkspaceError: the request or the run folder is unusable.
    """
    clock = Stopwatch(monotonic())
    check_request(request)
    check_place(Path(request.dataset), Path(request.run))
    run = RunFolder(Path(request.run), listener, restart=request.restart)
    with run.lock(), determinism(request.deterministic):
        dataset = open_dataset(request, run.listener)
        check_folds(request, dataset)
        record_command(request, run.layout, accepted=False)
        fingerprint = measure(run, dataset, request)
        dataset, files = without_skipped(run, dataset, fingerprint, request)
        folds = split_cases(run, dataset, fingerprint, request)
        plan = make_plan(run, fingerprint, request)
        models = models_of(plan, folds, dataset, request)
        check_space(run.layout.root, fingerprint, plan, {name: len(numbers) for name, numbers in models.items()})
        stores = prepare(run, dataset, files, plan, [*models], request.executor)
        clock.lap("checking and preparing")

        device = choose_device(request.device)
        identify = partial(Experiment, folds=folds, files=files, classes=fingerprint.classes)
        experiment = settle(run, plan, request, models, identify, device, clock.begun + (request.budget_seconds or 0))
        record_command(request, run.layout, accepted=True)
        left = left_to_train(run.layout, experiment, models)
        experiment, seconds = fit_to_memory(run, experiment, left, device)
        announce(run, experiment, left, seconds, device)
        clock.lap("measuring the device")

        common = Validation(experiment.settings, dataset, stores, device, request.executor, run.listener)
        out_of_fold, trained = dict[ConfigurationName, OutOfFold](), dict[ConfigurationName, tuple[int, ...]]()
        for name in models:
            stage = experiment.plan.configurations[name].previous
            previous = out_of_fold[stage].previous() if stage else None
            for fold in models[name]:
                try:
                    train(run, experiment, name, fold, stores[name], previous, device)
                except OutOfMemory as failure:  # noqa: PERF203 (a training is no short loop)
                    experiment = halve_batch(run, experiment, name, f"in fold {fold}", failure)
                    train(run, experiment, name, fold, stores[name], previous, device)
            clock.lap("training")
            # The second stage of a cascade is trained on what the first says of cases that it has not seen.
            trained[name] = trained_folds(run.layout, experiment, name)
            out_of_fold[name] = cross_validate(run, experiment, name, trained[name], common, previous)
            clock.lap("cross-validation")

        selection = select(run, experiment, out_of_fold, trained, common)
        model = save_model(run, experiment, selection, trained, out_of_fold, stores, dataset, fingerprint)
        write_report_of(run)
        clock.lap("choice, model and report")
        clock.tell(run.listener, request.budget_seconds if left else None)
    return FitResult(selection, model, run.layout.root)

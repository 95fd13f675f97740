"""A budget whose plan is there already: the folds that are left share the time."""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, ClassVar

from voxfit.core.records import Record
from voxfit.planning.plan import Plan
from voxfit.planning.recipe import Recipe
from voxfit.running.budget import share_again
from voxfit.running.present import lasting

if TYPE_CHECKING:
    from voxfit.running.pipeline import Run


class Shared(Record):
    """Among which folds the time of a budget was shared (`budget.json`).

    Attributes:
        made_from: digest of the budget.
        folds: the folds that were asked for.
    """

    schema_name: ClassVar[str] = "voxfit.budget/1"
    made_from: str
    folds: tuple[int, ...]


def shared_now(run: Run) -> Shared:
    """What the time is shared among at present."""
    return Shared(made_from=run.budget_digest, folds=run.fold_numbers)


def share_among_folds(run: Run, plan: Plan, recipe: Recipe) -> tuple[Plan, Recipe]:
    """Plan and recipe of a budget that was fitted before.

    The same command goes on as it was. Where other folds are asked for, those that are left share the time anew; the
    plan stays, so that what is trained fits.
    """
    path, present = run.root / "budget.json", run.presently(plan, recipe)
    trained = {name: {*present.trained(name)} for name in run.configurations}
    left = {name: len({*run.folds_of(name)} - trained[name]) for name in run.configurations}
    left = {name: count for name, count in left.items() if count}
    if not left or (path.exists() and Shared.load(path) == shared_now(run)):
        return plan, recipe
    from voxfit.running.folds import time_step

    run.listener.stage("Sharing the budget over the folds that are left")
    each, said = share_again(
        plan,
        left,
        {name: len(trained[name].union(run.folds_of(name))) for name in run.configurations},
        seconds=(run.request.budget_seconds or 0.0) - (monotonic() - run.begun),
        validation_cases=max(len(names) for names in run.folds.validation),
        timer=partial(time_step, run),
    )
    run.listener.say(said)
    plan = plan.model_copy(update={"changes": (*plan.changes, said)})
    plan.save(run.root / "plan.json")
    recipe = lasting(recipe, round(each, 1))
    recipe.save(run.root / "recipe.json")
    shared_now(run).save(path)
    return plan, recipe

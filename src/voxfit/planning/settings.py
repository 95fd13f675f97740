"""What is trained: plan and recipe, after a time budget and the memory of a device have changed them."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from voxfit.core.records import Made
from voxfit.planning.plan import Configuration, ConfigurationName, Plan
from voxfit.planning.recipes import PolynomialDecay, Recipe


class Settings(Made):
    """Plan and recipe of the trainings of a run (`training.json`).

    Attributes:
        inputs_digest: digest of what was asked for: plan, recipe and budget.
        plan: as it is trained.
        recipe: as it is trained.
        planned: digest of the plan of the rules, perhaps edited, that they began with.
        budget: digest of the time budget that made them; empty for none.
        shared_among: the folds among which the time of the budget was shared.
        batch_sizes: of folds that were trained before memory ran out and the batch was halved, by configuration.
    """

    schema_name: ClassVar[str] = "voxfit.training/1"
    plan: Plan
    recipe: Recipe
    planned: str = ""
    budget: str = ""
    shared_among: tuple[int, ...] = ()
    batch_sizes: dict[ConfigurationName, dict[int, int]] = Field(default_factory=dict)

    def configuration(self, name: ConfigurationName, fold: int) -> Configuration:
        """A configuration with the batch that a fold is trained with."""
        configuration = self.plan.configurations[name]
        batch_size = self.batch_sizes.get(name, {}).get(fold, configuration.batch_size)
        return configuration.revised(batch_size=batch_size)


def given_seconds(recipe: Recipe) -> float | None:
    """The length of a timed training; None where nothing is timed."""
    return recipe.schedule.seconds if isinstance(recipe.schedule, PolynomialDecay) else None


def lasting(recipe: Recipe, seconds: float) -> Recipe:
    """A timed recipe with another length; any other as it is."""
    if not given_seconds(recipe):
        return recipe
    return recipe.revised(schedule=recipe.schedule.revised(seconds=seconds))

"""What makes a training the one that it is: digests of everything that its weights depend on."""

from __future__ import annotations

from collections.abc import Sequence

from voxfit.core.records import digest_of
from voxfit.imaging.labels import Labels
from voxfit.planning.architecture import Topology
from voxfit.planning.plan import Configuration
from voxfit.planning.recipes import Recipe


def training_seed(recipe: Recipe, name: str, fold: int) -> int:
    """Of the initial weights and of everything drawn while a fold of a configuration is trained."""
    return int(digest_of([recipe.seed, name, fold])[:8], 16)


def digest_of_training(
    labels: Labels,
    topology: Topology,
    configuration: Configuration,
    recipe: Recipe,
    *,
    training_cases: Sequence[str],
    validation_cases: Sequence[str],
    seed: int,
    masked_channels: Sequence[int],
) -> str:
    """Digest of all settings of a training; the reasons of a configuration (`why`) and metrics do not count."""
    settings = configuration.model_dump(mode="json", exclude={"why"})
    return digest_of(
        [
            labels.digest(),
            topology.digest(),
            settings,
            recipe.revised(metrics=()).digest(),
            training_cases,
            validation_cases,
            seed,
            masked_channels,
        ]
    )

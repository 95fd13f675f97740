"""What makes a training another one, so that neither its weights nor its checkpoint are taken for it."""

import pytest

from builders.records import configuration_of, topology_of
from voxfit.imaging.labels import Label, Labels
from voxfit.planning.identity import digest_of_training, training_seed
from voxfit.planning.recipes import Recipe

LABELS = Labels(classes=(Label(name="box", value=1),))
CONFIGURATION = configuration_of((12, 12, 12), 2, median_shape=(14, 16, 18))


def digest(**changes):
    settings = {
        "labels": LABELS,
        "topology": topology_of((1, 1, 1)),
        "configuration": CONFIGURATION,
        "recipe": Recipe(),
        "training_cases": ("a", "b"),
        "validation_cases": ("c",),
        "seed": 0,
        "masked_channels": (),
    }
    return digest_of_training(**(settings | changes))


@pytest.mark.parametrize(
    "change",
    [
        {"labels": Labels(classes=(Label(name="box", value=2),))},
        {"topology": topology_of((1, 1, 1), 5)},
        {"configuration": CONFIGURATION.model_copy(update={"batch_size": 3})},
        {"configuration": CONFIGURATION.model_copy(update={"dice": "batch"})},
        {"recipe": Recipe(seed=1)},
        {"training_cases": ("a", "d")},
        {"training_cases": ("a",)},
        {"validation_cases": ("d",)},
        {"seed": 1},
        {"masked_channels": (0,)},
    ],
)
def test_a_training_of_something_else_is_another_one(change):
    assert digest(**change) != digest()


def test_reasons_make_no_other_training():
    assert digest(configuration=CONFIGURATION.model_copy(update={"why": {"batch_size": "Memory."}})) == digest()


def test_every_fold_of_every_configuration_draws_other_numbers():
    seeds = {
        training_seed(Recipe(seed=seed), name, fold) for seed in (0, 1) for name in ("2d", "3d") for fold in range(5)
    }
    assert len(seeds) == 20

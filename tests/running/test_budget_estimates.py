"""What a budget keeps back for predictions, against the count of passes by hand."""

import pytest

from builders.records import configuration_of, plan_of
from voxfit.planning.plan import Inference
from voxfit.planning.recipes import SGD, Recipe
from voxfit.running.budget import counted_recipe, fit_to_budget
from voxfit.running.estimates import Fitted, prediction_seconds

VOLUME = configuration_of(
    (40, 56, 40), 2, median_shape=(36, 50, 36), num_pool=(3, 3, 3), base_features=30, max_features=320
)
PLANE = configuration_of(
    (56, 40), 4, median_shape=(50, 36), num_pool=(3, 3), base_features=30, max_features=480, dice="batch"
)


def plan(mirror_axes=None):
    return plan_of({"2d": PLANE, "3d": VOLUME}, inference=Inference(mirror_axes=mirror_axes))


def of_the_network(configuration, mirror_axes, cases=10):
    """Seconds of ten cases that are due to the network, which takes 3 s for a training step."""
    one, two = (prediction_seconds(plan(mirror_axes), Fitted(configuration, 3.0 * factor), cases) for factor in (1, 2))
    return two - one


@pytest.mark.parametrize(("mirror_axes", "looks"), [(None, 8), ((0, 1, 2), 8), ((1,), 2), ((0, 2), 4), ((), 1)])
def test_a_case_that_fits_into_a_tile_takes_a_pass_for_each_look(mirror_axes, looks):
    # A forward pass of one sample costs a third of its share of a step.
    assert of_the_network(VOLUME, mirror_axes) == pytest.approx(10 * looks * 3.0 / 2 / 3)


def test_slices_take_a_pass_each_and_are_not_mirrored_across():
    assert of_the_network(PLANE, None) == pytest.approx(10 * 36 * 4 * 3.0 / 4 / 3)
    assert of_the_network(PLANE, (0,)) == pytest.approx(10 * 36 * 1 * 3.0 / 4 / 3)


def test_larger_cases_take_a_pass_for_each_tile():
    """Three of 80 x 56 x 40 voxels, which overlap by half: half of the cases are larger than the median."""
    larger = VOLUME.model_copy(update={"median_shape": (72, 50, 36)})
    assert of_the_network(larger, ()) == pytest.approx(10 * 3 * 3.0 / 2 / 3)


def test_where_predictions_look_often_they_take_half_of_the_budget_at_most():
    def timer(name, item):
        return 0.3 * item.batch_size * (item.base_features / 30) ** 2

    looks, shares = set(), []
    for cases in range(10, 300, 10):
        made = fit_to_budget(plan(), Recipe(), {"3d": 1}, seconds=120, validation_cases=cases, timer=timer).plan
        item = made.configurations["3d"]
        each = 8 * timer("3d", item) / item.batch_size / 3
        looks.add(made.inference.mirror_axes)
        if made.inference.mirror_axes is None:
            shares.append(cases * each / 120)
    assert looks == {None, ()}
    assert max(shares) <= 0.5


def test_short_trainings_forget_the_large_gradients_of_their_first_steps():
    made = fit_to_budget(
        plan(), Recipe(), {"3d": 1}, seconds=3600, validation_cases=2, timer=lambda name, item: 0.1 * item.batch_size
    )
    for recipe in (made.recipe, counted_recipe(Recipe(), 10)):
        assert recipe.optimizer == Recipe().optimizer.model_copy(update={"amsgrad": False})
    other = Recipe(optimizer=SGD())
    assert counted_recipe(other, 10).optimizer == other.optimizer

"""Budgets on devices whose speed is a formula."""

import math

import pytest

from builders import case_of, configuration_of, fingerprint_of
from voxfit.core.errors import UsageError
from voxfit.core.formatting import format_duration
from voxfit.imaging.labels import Label, Labels
from voxfit.planning.grid import ZScore
from voxfit.planning.plan import Plan
from voxfit.planning.planners.paper import make_plan
from voxfit.planning.recipes import PolynomialDecay, Recipe
from voxfit.running.budget import ENOUGH_STEPS, SMALLEST_PATCH, counted_recipe, fit_to_budget, share_again
from voxfit.running.estimates import training_seconds
from voxfit.running.stopwatch import Stopwatch


def plan(batch=9):
    configuration = configuration_of(
        (40, 56, 40), batch, median_shape=(36, 50, 35), num_pool=(3, 3, 3), base_features=30, max_features=320
    )
    return Plan(
        dataset="x",
        channel_names=("MRI",),
        labels=Labels(classes=(Label(name="a", value=1),)),
        num_cases=200,
        normalization=(ZScore(),),
        configurations={"3d": configuration},
    )


def device(seconds_a_sample):
    """A step costs its samples, and the square of the width."""
    return lambda name, item: seconds_a_sample * item.batch_size * (item.base_features / 30) ** 2


def fitted(seconds, sample_seconds, models=1, batch=9):
    result = fit_to_budget(
        plan(batch), Recipe(), {"3d": models}, seconds=seconds, validation_cases=40, timer=device(sample_seconds)
    )
    return result.plan.configurations["3d"], result


def test_a_fast_device_keeps_the_papers_settings():
    configuration, result = fitted(3600, 0.01)
    assert (configuration.batch_size, configuration.base_features) == (9, 30)
    assert not any("->" in change for change in result.plan.changes)


def test_the_batch_goes_first():
    configuration, result = fitted(3600, 0.6)
    assert 2 <= configuration.batch_size < 9
    assert configuration.base_features == 30
    assert any(f"batch size 9 -> {configuration.batch_size}" in change for change in result.plan.changes)


@pytest.mark.parametrize("seconds", [300, 600, 1200, 2400])
def test_then_the_width_until_enough_steps_fit(seconds):
    configuration, result = fitted(seconds, 0.6)
    step = device(0.6)("3d", configuration)
    assert configuration.batch_size == 2
    assert result.recipe.schedule.seconds / step > 1000 or configuration.base_features == 8
    wider = {24: 30, 16: 24, 12: 16, 8: 12}.get(configuration.base_features)
    if wider:
        slower = device(0.6)("3d", configuration.model_copy(update={"base_features": wider}))
        assert result.recipe.schedule.seconds / slower < 1600


def large_plan():
    """Brains: the paper's patch has 128^3 voxels, and 2D slices."""
    case = case_of((138, 169, 138), uncropped_shape=(155, 240, 240))
    return make_plan(fingerprint_of((case,) * 484))


def by_voxels(tried):
    """A device that counts what it has to measure."""

    def step(name, item):
        seconds = 2e-6 * math.prod(item.patch_size) * item.batch_size * (item.base_features / 30) ** 2
        tried.append(seconds)
        return seconds

    return step


def test_last_the_patch_and_nothing_far_too_slow_is_tried():
    tried = []
    budget = fit_to_budget(large_plan(), Recipe(), {"3d": 1}, seconds=90, validation_cases=2, timer=by_voxels(tried))
    configuration = budget.plan.configurations["3d"]
    assert math.prod(large_plan().configurations["3d"].patch_size) > 7 * SMALLEST_PATCH
    assert 0.7 * SMALLEST_PATCH <= math.prod(configuration.patch_size) <= SMALLEST_PATCH
    assert all(
        edge % 2**count == 0 for edge, count in zip(configuration.patch_size, configuration.num_pool, strict=True)
    )
    assert (configuration.batch_size, configuration.base_features) == (2, 8)
    assert any("patch 128 x 128 x 128 ->" in change for change in budget.plan.changes)
    assert max(tried) < 1.0  # a step of the planned network takes 8 s


def test_more_time_gives_the_patch_back():
    sizes = []
    for hours in (0.03, 0.2, 1, 4, 400):
        plan = fit_to_budget(
            large_plan(), Recipe(), {"3d": 1}, seconds=hours * 3600, validation_cases=2, timer=by_voxels([])
        ).plan
        item = plan.configurations["3d"]
        sizes.append((math.prod(item.patch_size), item.base_features))
    assert sizes == sorted(sizes)
    assert sizes[-1] == (math.prod(large_plan().configurations["3d"].patch_size), 30)


def test_the_whole_fits_into_the_time():
    for models in (1, 2, 5):
        _, result = fitted(1200, 0.2, models)
        assert models * result.recipe.schedule.seconds < 1200
        assert models * result.recipe.schedule.seconds > 600


def test_prediction_gives_way_to_training():
    """Where mirrored cross-validation would eat the budget, predictions look once, and the plan says so."""
    usual, hurried = (
        fit_to_budget(plan(), Recipe(), {"3d": 1}, seconds=90, validation_cases=cases, timer=device(0.2)).plan
        for cases in (40, 400)
    )
    assert usual.inference.mirror_axes is None
    assert hurried.inference.mirror_axes == ()
    assert any("mirrored" in change for change in hurried.changes)
    assert not any("mirrored" in change for change in usual.changes)


def test_short_schedules_have_the_rate_that_was_measured_for_them():
    """docs/benchmarks.md, of schedules that last minutes: 0.01; a recipe that anneals already keeps its own."""
    assert fitted(1200, 0.2)[1].recipe.schedule.learning_rate == pytest.approx(0.01)
    own = Recipe(schedule=PolynomialDecay(learning_rate=3e-3, epochs=1000))
    result = fit_to_budget(plan(), own, {"3d": 1}, seconds=1200, validation_cases=4, timer=device(0.2))
    assert result.recipe.schedule.learning_rate == pytest.approx(3e-3)


@pytest.mark.parametrize("cases", [10, 100, 200])
def test_the_time_of_cross_validation_is_no_time_of_training(cases):
    """Networks are fitted to what it leaves: about as many steps, however many cases are predicted."""
    result = fit_to_budget(plan(), Recipe(), {"3d": 1}, seconds=1500, validation_cases=cases, timer=device(0.2))
    step = device(0.2)("3d", result.plan.configurations["3d"])
    assert result.plan.inference.mirror_axes is None
    assert result.plan.configurations["3d"].base_features == 30
    assert result.plan.configurations["3d"].batch_size > 2
    assert result.recipe.schedule.seconds / step > 0.9 * ENOUGH_STEPS


def test_folds_that_are_left_share_the_time_that_is_left():
    fitted_plan = fitted(1200, 0.2, models=1)[1].plan
    step = device(0.2)("3d", fitted_plan.configurations["3d"])
    shares = {}
    for left, validated in ((1, 2), (2, 3), (4, 5)):
        seconds, said = share_again(
            fitted_plan, {"3d": left}, {"3d": validated}, seconds=1200, validation_cases=4, timer=device(0.2)
        )
        assert left * seconds < 1200
        assert f"about {seconds / step:,.0f} steps of 3d" in said
        shares[left] = seconds
    assert shares[1] > 1.9 * shares[2] > 3.6 * shares[4]
    with pytest.raises(UsageError, match=r"training for each of 4 models.*fewer --configurations or --folds"):
        share_again(fitted_plan, {"3d": 4}, {"3d": 5}, seconds=5, validation_cases=4, timer=device(0.2))


def test_what_a_fit_took_is_said_to_the_second(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("voxfit.running.stopwatch.monotonic", lambda: now[0])
    watch = Stopwatch(100.0)
    for what, seconds in (("preparing", 20.0), ("training", 480.4), ("cross-validation", 95.2), ("training", 63.0)):
        now[0] += seconds
        watch.lap(what)
    assert watch.account(660.0) == "Took 10 min 59 s of the budget of 11 min 0 s."
    assert watch.account(600.0).startswith(
        "Took 10 min 59 s, 59 s more than the budget of 10 min 0 s: "
        "preparing 20 s, training 9 min 3 s, cross-validation 1 min 35 s."
    )


def test_too_little_time_is_refused_with_the_numbers():
    with pytest.raises(UsageError, match=r"one step takes .* s\. Give more time"):
        fitted(10, 100.0)


def test_estimates_of_a_whole_training():
    recipe = Recipe()
    # 1000 epochs of 250 steps and 50 validation steps, which cost a third.
    expected = 3 * 1000 * (250 + 50 / 3) * 9 * 0.5
    assert training_seconds(plan(), recipe, {"3d": 3}, device(0.5)) == pytest.approx(expected)
    assert training_seconds(plan(), counted_recipe(recipe, 10), {"3d": 3}, device(0.5)) == pytest.approx(expected / 100)
    timed = recipe.model_copy(update={"schedule": PolynomialDecay(learning_rate=1e-3, seconds=60.0)})
    assert training_seconds(plan(), timed, {"3d": 3}, device(0.5)) == 180


@pytest.mark.parametrize(
    ("seconds", "text"), [(45, "45 s"), (12 * 60, "12 min"), (3.5 * 3600, "3.5 h"), (5 * 86400, "5.0 days")]
)
def test_durations_in_words(seconds, text):
    assert format_duration(seconds) == text

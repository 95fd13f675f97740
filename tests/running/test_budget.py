"""Budgets on devices whose speed is a formula."""

import math

import pytest

from voxfit.core.errors import UsageError
from voxfit.imaging.labels import Label, Labels
from voxfit.planning.fingerprint import CaseFingerprint, Fingerprint
from voxfit.planning.grid import ZScore
from voxfit.planning.plan import Configuration, Plan
from voxfit.planning.planner import make_plan
from voxfit.planning.recipe import Annealed, Recipe
from voxfit.running.budget import SMALLEST_PATCH, counted_recipe, fit_to_budget, training_seconds, words


def plan(batch=9):
    configuration = Configuration(
        spacing=(1.0, 1.0, 1.0),
        median_shape=(36, 50, 35),
        patch_size=(40, 56, 40),
        batch_size=batch,
        num_pool=(3, 3, 3),
        base_features=30,
        max_features=320,
        dice="sample",
        augmentation="3d",
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
    cases = (CaseFingerprint(shape=(138, 169, 138), uncropped_shape=(155, 240, 240), spacing_mm=(1.0, 1.0, 1.0)),) * 484
    labels = Labels(classes=(Label(name="a", value=1),))
    facts = Fingerprint(dataset="x", channel_names=("MRI",), labels=labels, cases=cases, intensities=(None,))
    return make_plan(facts)


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


def test_too_little_time_is_refused_with_the_numbers():
    with pytest.raises(UsageError, match=r"one step takes .* s\. Give more time"):
        fitted(10, 100.0)


def test_estimates_of_a_whole_training():
    recipe = Recipe()
    # 1000 epochs of 250 steps and 50 validation steps, which cost a third.
    expected = 3 * 1000 * (250 + 50 / 3) * 9 * 0.5
    assert training_seconds(plan(), recipe, {"3d": 3}, device(0.5)) == pytest.approx(expected)
    assert training_seconds(plan(), counted_recipe(recipe, 10), {"3d": 3}, device(0.5)) == pytest.approx(expected / 100)
    timed = recipe.model_copy(update={"schedule": Annealed(learning_rate=1e-3, seconds=60.0)})
    assert training_seconds(plan(), timed, {"3d": 3}, device(0.5)) == 180


@pytest.mark.parametrize(
    ("seconds", "text"), [(45, "45 s"), (12 * 60, "12 min"), (3.5 * 3600, "3.5 h"), (5 * 86400, "5.0 days")]
)
def test_durations_in_words(seconds, text):
    assert words(seconds) == text

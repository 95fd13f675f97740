"""The schedules on written-down loss curves."""

import pytest

from voxfit.learning.schedule import advance, begin, polynomial_rate
from voxfit.planning.recipes import Plateau, PolynomialDecay

RULE = Plateau()


def run(training, validation, schedule=RULE):
    """The progress after each epoch of two loss curves, until it is finished."""
    states = [begin(schedule)]
    for a, b in zip(training, validation, strict=True):
        if states[-1].finished:
            break
        states.append(advance(schedule, states[-1], a, b, 1.0))
    return states[1:]


def drops(states, first=RULE.learning_rate):
    rates = [first, *(state.learning_rate for state in states)]
    return [epoch for epoch in range(1, len(rates)) if rates[epoch] < rates[epoch - 1]]


@pytest.mark.parametrize(
    "schedule", [RULE, PolynomialDecay(learning_rate=0.01, epochs=3), PolynomialDecay(learning_rate=0.01, seconds=9)]
)
def test_steps_add_up_where_an_epoch_is_cut_short(schedule):
    progress = begin(schedule)
    for done in (5, 5, 2):
        progress = advance(schedule, progress.model_copy(update={"step": done}), 0.5, 0.5, 1.0)
        assert progress.step == 0
    assert progress.steps == 12


def test_a_flat_curve_drops_every_thirty_epochs_after_the_first():
    states = run([0.5] * 100, [0.5] * 100)
    assert drops(states) == [31, 61, 91]
    assert states[30].learning_rate == pytest.approx(3e-4 / 5)


def test_a_steadily_falling_curve_never_drops():
    curve = [1 - 0.01 * epoch for epoch in range(200)]
    assert drops(run(curve, curve)) == []


def test_improvements_below_the_threshold_add_up():
    """A fall of 0.0005 an epoch is 0.015 in 30 epochs: the average falls by 5e-3 in time, again and again."""
    curve = [1 - 0.0005 * epoch for epoch in range(300)]
    assert drops(run(curve, curve)) == []


def test_too_slow_a_fall_drops():
    curve = [1 - 0.0001 * epoch for epoch in range(200)]
    assert drops(run(curve, curve))[0] == 31


def test_the_average_smooths_a_spike():
    """One bad epoch moves the average by 7 % only; the count goes on from the best."""
    curve = [1 - 0.02 * epoch for epoch in range(20)] + [5.0] + [1 - 0.02 * epoch for epoch in range(20, 60)]
    states = run(curve, curve)
    assert states[20].training_average == pytest.approx(0.93 * states[19].training_average + 0.07 * 5.0)


def test_it_never_stops_above_the_last_rate_and_stops_below():
    states = run([0.5] * 1000, [0.5] * 1000)
    # 3e-4 / 5^4 = 4.8e-7 is the first rate below 1e-6, after four drops in epoch 121; validation waits since epoch 1.
    assert states[-1].finished
    assert len(states) == 121
    assert all(state.learning_rate >= 1e-6 for state in states[:-1])


def test_an_improving_validation_loss_keeps_it_going():
    training = [0.5] * 1000
    validation = [1 - 0.001 * epoch for epoch in range(1000)]
    states = run(training, validation)
    assert len(states) == 1000
    assert states[-1].finished


def test_stopping_needs_both_conditions():
    falling = [1 - 0.01 * epoch for epoch in range(400)]
    states = run(falling, [0.5] * 400)  # validation is flat, but the rate never drops
    assert len(states) == 400
    assert not states[-1].finished


def test_annealing_goes_from_warm_up_to_zero():
    schedule = PolynomialDecay(learning_rate=1e-2, warmup_steps=10, epochs=4, power=1.0)
    assert polynomial_rate(schedule, 0.0, 0) == pytest.approx(1e-3)
    assert polynomial_rate(schedule, 0.0, 9) == pytest.approx(1e-2)
    assert polynomial_rate(schedule, 0.5, 1000) == pytest.approx(5e-3)
    assert polynomial_rate(schedule, 1.0, 2000) == 0


def test_counted_and_timed_schedules_end():
    counted = run([0.1] * 9, [0.1] * 9, PolynomialDecay(learning_rate=1e-2, epochs=4))
    assert [state.finished for state in counted] == [False, False, False, True]
    timed = run([0.1] * 9, [0.1] * 9, PolynomialDecay(learning_rate=1e-2, seconds=2.5))
    assert [state.finished for state in timed] == [False, False, True]

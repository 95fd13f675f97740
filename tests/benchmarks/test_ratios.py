"""Ratios are of pairs: a machine that slows down during the measurement changes none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.ratios import ratio_of_pairs

seconds = st.floats(0.01, 1000)


def test_a_drifting_machine_changes_no_ratio():
    """Medians alone would say 5.5 / 2."""
    found = ratio_of_pairs([3.0, 6.0, 30.0, 3.3], [1.0, 2.0, 10.0, 1.1])
    assert (found.low, found.median, found.high) == pytest.approx((3, 3, 3))


def test_spread_and_median():
    found = ratio_of_pairs([2.0, 9.0, 4.0], [1.0, 3.0, 1.0])
    assert (found.low, found.median, found.high) == (2.0, 3.0, 4.0)


@given(st.lists(st.tuples(seconds, seconds), min_size=1), st.floats(0.1, 10))
def test_it_is_scaled_with_theirs_and_turned_with_the_sides(pairs, factor):
    theirs, ours = zip(*pairs, strict=True)
    found = ratio_of_pairs(theirs, ours)
    grown = ratio_of_pairs([factor * value for value in theirs], ours)
    turned = ratio_of_pairs(ours, theirs)
    assert found.low <= found.median <= found.high
    assert (grown.low, grown.median, grown.high) == pytest.approx(
        (factor * found.low, factor * found.median, factor * found.high)
    )
    assert (turned.low, turned.high) == pytest.approx((1 / found.high, 1 / found.low))


@pytest.mark.parametrize("series", [([], []), ([1.0], [1.0, 2.0])])
def test_series_that_are_no_pairs(series):
    with pytest.raises(ValueError, match=r"."):
        ratio_of_pairs(*series)

"""Exact percentiles in one pass and in two, against NumPy on all values at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from voxfit.planning.intensities import MOST_VALUES, count, from_keys, merge, restrict, statistics, to_keys

floats = st.floats(-(2.0**100), 2.0**100, width=32)


@given(arrays.arrays(np.float32, st.integers(1, 200), elements=floats))
def test_keys_keep_the_order_and_come_back(values):
    keys = to_keys(values)
    assert np.array_equal(from_keys(keys), values)
    assert np.array_equal(np.argsort(keys, kind="stable"), np.argsort(values + np.float32(0), kind="stable"))


def check(parts):
    def refine(uppers):
        return merge([count(restrict(part, uppers), MOST_VALUES) for part in parts])

    counts = merge([count(part) for part in parts])
    found, together = statistics(counts, refine), np.concatenate(parts).astype(np.float64)
    low, high = np.percentile(together, [0.5, 99.5])
    size = np.abs(together).max()
    assert found.percentile_00_5 == pytest.approx(low, abs=1e-12 * size)
    assert found.percentile_99_5 == pytest.approx(high, abs=1e-12 * size)
    assert found.mean == pytest.approx(together.mean(), abs=1e-9 * size)
    assert found.standard_deviation == pytest.approx(together.std(), rel=1e-6, abs=1e-9 * size)
    assert found.voxels == together.size
    return counts


@pytest.mark.parametrize("seed", range(5))
def test_many_distinct_values_take_two_passes_and_stay_exact(seed):
    rng = np.random.default_rng(seed)
    parts = [rng.normal(seed * 10, 300, int(rng.integers(20_000, 60_000))).astype(np.float32) for _ in range(3)]
    assert not check(parts).whole


def test_integers_take_one_pass():
    rng = np.random.default_rng(0)
    assert check([rng.integers(-1000, 3000, 50_000).astype(np.float32) for _ in range(4)]).whole


def test_whole_and_coarse_counts_mix():
    rng = np.random.default_rng(0)
    integers = rng.integers(-1000, 3000, 50_000).astype(np.float32)
    check([integers, rng.normal(0, 300, 50_000).astype(np.float32), integers[:0], integers[:1]])


@settings(max_examples=50)
@given(
    st.lists(
        arrays.arrays(np.float32, st.integers(1, 30), elements=st.floats(-1e6, 1e6, width=32)), min_size=1, max_size=4
    )
)
def test_any_few_values(parts):
    check(parts)


def test_no_voxels_have_no_statistics():
    nothing = np.zeros(0, np.float32)
    assert statistics(merge([count(nothing)]), lambda uppers: count(nothing)) is None

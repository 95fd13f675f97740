"""Normalisation against NumPy."""

import numpy as np
import pytest

from voxfit.core.errors import UsageError
from voxfit.planning.grid import ClipAndScale, Divide, MissingCTStatistics, UnitRange, ZScore
from voxfit.preprocessing.normalization import normalize


@pytest.fixture
def image():
    return np.random.default_rng(0).gamma(2.0, 300.0, size=(2, 6, 7, 8)).astype(np.float32)


def test_each_channel_by_its_own_rule(image):
    ct = ClipAndScale(lower=100.0, upper=900.0, mean=400.0, standard_deviation=200.0)
    result = normalize(image.copy(), [ct, ZScore()], None)
    assert result[0] == pytest.approx((np.clip(image[0], 100, 900) - 400) / 200, abs=1e-5)
    assert result[1] == pytest.approx((image[1] - image[1].mean()) / image[1].std(), abs=1e-5)


def test_inside_the_mask_only(image):
    mask = np.random.default_rng(1).random((6, 7, 8)) < 0.4
    result = normalize(image.copy(), [ZScore(inside_mask=True)] * 2, mask)
    for channel in range(2):
        inside = image[channel][mask]
        assert result[channel][mask] == pytest.approx((inside - inside.mean()) / inside.std(), abs=1e-5)
        assert not result[channel][~mask].any()


def test_unit_range_and_division(image):
    result = normalize(image.copy(), [UnitRange(), Divide(by=255.0)], None)
    assert (result[0].min(), result[0].max()) == (0, 1)
    assert result[0] == pytest.approx((image[0] - image[0].min()) / np.ptp(image[0]), abs=1e-6)
    assert result[1] == pytest.approx(image[1] / 255, rel=1e-6)
    assert not normalize(np.full((1, 3, 3, 3), 7.0, np.float32), [UnitRange()], None).any()


def test_a_constant_image_becomes_zero():
    assert not normalize(np.full((1, 3, 3, 3), 7.0, np.float32), [ZScore()], None).any()


def test_unmeasured_intensities_are_named(image):
    with pytest.raises(UsageError, match="CT channel without measured intensities"):
        normalize(image, [MissingCTStatistics(), ZScore()], None)

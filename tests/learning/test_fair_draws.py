"""Augmentation prefers no side."""

import numpy as np
import pytest

from voxfit.learning.randomness import RandomStreams
from voxfit.learning.spatial import draw_spatial
from voxfit.planning.recipes import Recipe


@pytest.mark.parametrize("patch", [(40, 50), (16, 20, 24)])
def test_elastic_noise_is_even_between_minus_one_and_one(patch):
    settings = Recipe().augmentation_3d.model_copy(update={"elastic_probability": 1.0})
    for seed in range(3):
        noise = draw_spatial(RandomStreams([seed]), settings, patch).elastic.noise
        assert noise.shape == (len(patch), *patch)
        for axis in noise:
            assert axis.min() < -0.97
            assert axis.max() > 0.97
            # Of so many even draws, the mean strays by less than five of its deviations.
            assert abs(axis.mean()) < 5 / np.sqrt(3 * axis.size)

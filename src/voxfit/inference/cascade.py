"""Between the stages of the cascade (method.md [N1]): a coarse segmentation becomes channels of the fine stage."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from voxfit.preprocessing.resampling import resample


def upsampled(probabilities: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.int16]:
    """The segmentation of the first stage on the grid of the second.

    Probabilities are interpolated linearly before the most likely class is taken, so that its border is smooth.

    Args:
        probabilities: (class, z, y, x) on the coarse grid.
        shape: (z, y, x) of the same case on the fine grid.

    Returns:
        (z, y, x) class indices.
    """
    return np.asarray(resample(probabilities, shape, order=1).argmax(axis=0), np.int16)


def with_previous(image: NDArray[np.float32], segmentation: NDArray[np.int16], classes: int) -> NDArray[np.float32]:
    """An image (channel, z, y, x) with a 0/1 channel for each of `classes` foreground classes behind its own."""
    one_hot = np.stack([segmentation == index for index in range(1, classes + 1)])
    return np.concatenate([image, one_hot.astype(np.float32)])

"""Between the stages of the cascade (method.md [N1]): a coarse segmentation becomes channels of the fine stage."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from voxfit.imaging.labels import Labels
from voxfit.preprocessing.resampling import resample


def upsampled(
    outputs: NDArray[np.float32], shape: tuple[int, ...], labels: Labels, *, logits: bool = False
) -> NDArray[np.int16]:
    """The segmentation of the first stage on the grid of the second.

    Probabilities are interpolated linearly before the decision, so that its border is smooth.

    Args:
        outputs: (output, z, y, x) on the coarse grid.
        shape: (z, y, x) of the same case on the fine grid.
        labels: classes or regions.
        logits: whether the outputs are logits.

    Returns:
        (z, y, x) class indices.
    """
    return labels.decide(resample(outputs, shape, order=1), logits=logits).astype(np.int16)


def with_previous(image: NDArray[np.float32], segmentation: NDArray[np.int16], classes: int) -> NDArray[np.float32]:
    """An image (channel, z, y, x) with a 0/1 channel for each of `classes` foreground classes behind its own."""
    one_hot = np.stack([segmentation == index for index in range(1, classes + 1)])
    return np.concatenate([image, one_hot.astype(np.float32)])

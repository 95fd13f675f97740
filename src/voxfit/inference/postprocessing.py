"""Postprocessing of label maps (method.md [I4])."""

from __future__ import annotations

from collections.abc import Sequence

import cc3d
import numpy as np
from numpy.typing import NDArray


def keep_largest_components(label: NDArray[np.uint8], classes: Sequence[int]) -> NDArray[np.uint8]:
    """Reduce each of `classes` to its largest connected component (full connectivity); the rest is background.

    Args:
        label: (z, y, x) class indices, changed in place.
        classes: those that are one component in every training label.
    """
    for index in classes:
        components, count = cc3d.connected_components(label == index, connectivity=26, return_N=True)
        if count > 1:
            sizes = np.bincount(components.ravel())
            sizes[0] = 0
            label[(components > 0) & (components != sizes.argmax())] = 0
    return label

"""From what networks say to a label map on the image's grid (method.md [I3], [I4])."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray

from voxfit.planning.plan import Plan
from voxfit.preprocessing.case import Placement


def segment(outputs: NDArray[np.float32], placement: Placement, plan: Plan) -> NDArray[np.integer[Any]]:
    """The segmentation of one case.

    Args:
        outputs: (output, z, y, x) averaged probabilities or logits on the prepared grid.
        placement: where that lies in the image.
        plan: labels, what was averaged, and which classes are one component.

    Returns:
        (z, y, x) class indices on the image's grid; background outside of the crop.
    """
    logits = plan.inference.averages == "logits"
    indices = placement.uncrop(plan.labels.decide(placement.to_image_grid(outputs), logits=logits))
    return keep_largest_components(indices, plan.single_component_labels)


def to_values(indices: NDArray[np.integer[Any]], values: Sequence[int]) -> NDArray[np.generic]:
    """Class indices become the values of the label files, in the smallest integer type that holds them."""
    kind = np.uint8 if max(values) < 256 else np.uint16 if max(values) < 65536 else np.uint32
    return np.take(np.asarray(values, kind), indices)


def keep_largest_components(label: NDArray[np.integer[Any]], classes: Sequence[int]) -> NDArray[np.integer[Any]]:
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

"""From what networks say to a label map on the image's grid (method.md [I3], [I4])."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import cc3d
import numpy as np
import scipy.special
from numpy.typing import NDArray

from voxfit.planning.plan import Plan
from voxfit.preprocessing.reverting import Part, revert_preprocessing


def segment(parts: Sequence[Part], plan: Plan, memory: int | None = None) -> NDArray[np.integer[Any]]:
    """The segmentation of one case by one configuration, or by an ensemble of several.

    Configurations are averaged on the image's grid, always as probabilities.

    Args:
        parts: of each configuration.
        plan: labels, what was averaged, and which classes are one component.
        memory: bytes that outputs may take; None for as much as is convenient.

    Returns:
        (z, y, x) class indices on the image's grid; background outside of the crop.

    Raises:
        MemoryLimitError: `memory` is not enough.
    """
    logits = plan.inference.average_over == "logits"
    if len(parts) == 1:
        indices = revert_preprocessing(parts, partial(plan.labels.decide, logits=logits), memory=memory)
    else:
        indices = revert_preprocessing(parts, plan.labels.decide, partial(_probabilities, plan=plan), memory)
    return keep_largest_components(indices, plan.single_component_labels)


def _probabilities(values: NDArray[np.float32], plan: Plan) -> NDArray[np.float32]:
    if plan.inference.average_over == "probabilities":
        return values
    activated = scipy.special.expit(values) if plan.labels.regions else scipy.special.softmax(values, axis=0)
    return np.asarray(activated, np.float32)


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

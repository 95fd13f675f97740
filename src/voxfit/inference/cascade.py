"""Between the stages of the cascade (method.md [N1]): a coarse segmentation becomes input of the fine stage."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from voxfit.planning.plan import ConfigurationName, Plan
from voxfit.preprocessing.output_resampling import LazyOutput, Regridding
from voxfit.preprocessing.resampling import coarse_axis
from voxfit.preprocessing.reverting import regridded


def upsampled(
    source: LazyOutput, shape: tuple[int, ...], plan: Plan, name: ConfigurationName, memory: int | None = None
) -> NDArray[np.int16]:
    """The segmentation of the first stage on the grid of the second.

    What the network says is interpolated linearly before the decision, so that its border is smooth.

    Args:
        source: outputs on the coarse grid.
        shape: (z, y, x) of the same case on the fine grid.
        plan: labels, grids, and what was averaged.
        name: of the second stage.
        memory: bytes that outputs may take.

    Returns:
        (z, y, x) class indices.
    """
    previous = plan.configurations[name].previous
    assert previous is not None  # only a second stage is asked for
    coarse, fine = (plan.grid(stage).spacing_of((1.0, 1.0, 1.0)) for stage in (previous, name))
    separate_axis = coarse_axis(coarse, fine, plan.preparation.coarse_axis_ratio)
    decide = partial(plan.labels.decide, logits=plan.inference.average_over == "logits")
    return regridded([Regridding.of(source, shape, separate_axis)], decide, memory=memory).astype(np.int16)

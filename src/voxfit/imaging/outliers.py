"""Training cases that are unlike the others: in spacing, in extent, in intensities.

Every rule compares a case with the median of all cases, as no average is safe from outliers, and speaks only where a
difference is larger than data of one kind show. (Of 1271 cases of seven tasks of the Decathlon none has a spacing or an
extent beyond 5.1 times the median of its task, on any axis.)

The scale of intensities says nothing where each image is normalised by its own mean and standard deviation, as MR is:
it differs a thousandfold within sound datasets. What matters there is what is left after it: a few voxels far brighter
than all others make these equal. Where a scale has a meaning, as Hounsfield units have, the labelled voxels of the
cases of a dataset lie near each other, measured by the width of their own distribution.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voxfit.core.errors import Problem
from voxfit.core.formatting import format_sizes
from voxfit.imaging.geometry import Geometry

_FAR = 8.0
"""Times the median: spacings and extents beyond are named."""

_OTHER_UNIT = 100.0
"""Times the median on every axis: a spacing in other units, not another scanner."""

_LEAST_CONTRAST = 0.1
"""Of the median contrast."""

_MOST_SHIFT = 5.0
"""Widths of the distribution of labelled voxels."""

_OTHER_SCALE = 30.0
"""Times the median width of that distribution."""

_SAMPLE = 100_000
_LEAST_VOXELS = 100


@dataclass(frozen=True)
class ChannelFacts:
    """Intensities of a channel; NaN where there are too few voxels.

    Attributes:
        contrast: width of the middle 90 % of the voxels that are not 0, in their standard deviations; about 3.
        level: median of the labelled voxels.
        width: of their middle 90 %.
    """

    contrast: float
    level: float
    width: float


@dataclass(frozen=True)
class CaseFacts:
    """What cases are compared in.

    Attributes:
        shape: voxels along the axes (z, y, x), or (y, x) of a picture.
        spacing_mm: along these.
        channels: their intensities.
    """

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    channels: tuple[ChannelFacts, ...]


def facts_of(image: NDArray[np.float32], label: NDArray[np.int16], geometry: Geometry) -> CaseFacts:
    """Measure a case.

    Args:
        image: (channel, z, y, x).
        label: (z, y, x) class indices.
        geometry: of both.
    """
    labelled = label > 0
    channels = tuple(ChannelFacts(_contrast(channel), *_level(channel[labelled])) for channel in image)
    axes = slice(3 - geometry.dimension, None)
    return CaseFacts(geometry.shape[axes], geometry.spacing_mm[axes], channels)


def _contrast(channel: NDArray[np.float32]) -> float:
    sample = channel.reshape(-1)[:: max(channel.size // _SAMPLE, 1)]
    sample = sample[sample != 0]
    if len(sample) < _LEAST_VOXELS:
        return math.nan
    low, high = (float(value) for value in np.percentile(sample, (5, 95)))
    count, total, squares = 0, 0.0, 0.0
    for plane in channel:  # all at once would take the memory of the image twice over
        values = plane[plane != 0].astype(np.float64)
        count, total, squares = count + values.size, total + float(values.sum()), squares + float(values @ values)
    deviation = math.sqrt(max(squares / count - (total / count) ** 2, 0.0))
    return (high - low) / deviation if deviation else math.nan


def _level(labelled: NDArray[np.float32]) -> tuple[float, float]:
    if labelled.size < _LEAST_VOXELS:
        return math.nan, math.nan
    sample = labelled[:: max(labelled.size // _SAMPLE, 1)]
    low, middle, high = (float(value) for value in np.percentile(sample, (5, 50, 95)))
    return middle, high - low


def find_outliers(
    cases: Mapping[str, CaseFacts], channel_names: Sequence[str], absolute: Sequence[bool]
) -> list[Problem]:
    """Name what is unlike the other cases. Fewer than three cannot be compared.

    Args:
        cases: by name.
        channel_names: for messages.
        absolute: of each channel, whether its intensities mean the same in all images, as Hounsfield units do.

    Returns:
        Warnings; an error for a spacing in other units, with which nothing would be left of the case.
    """
    usual = Counter(len(facts.shape) for facts in cases.values()).most_common(1)
    cases = {name: facts for name, facts in cases.items() if len(facts.shape) == usual[0][0]}
    if len(cases) < 3:
        return []
    problems = _size_problems(cases)
    for number, (channel, is_absolute) in enumerate(zip(channel_names, absolute, strict=True)):
        facts = {name: case.channels[number] for name, case in cases.items()}
        problems += _level_problems(facts, channel) if is_absolute else _contrast_problems(facts, channel)
    return problems


def _size_problems(cases: Mapping[str, CaseFacts]) -> list[Problem]:
    spacings = np.array([facts.spacing_mm for facts in cases.values()])
    extents = spacings * np.array([facts.shape for facts in cases.values()])
    usual, usual_extent = np.median(spacings, axis=0), np.median(extents, axis=0)
    problems = []
    rows = zip(cases.items(), _times_off(spacings), _times_off(extents), extents, strict=True)
    for (name, facts), spacing_off, extent_off, extent in rows:
        if spacing_off.max() >= _FAR:
            shape = [max(round(n * s / u), 1) for n, s, u in zip(facts.shape, facts.spacing_mm, usual, strict=True)]
            what = (
                f"its spacing is {format_sizes(facts.spacing_mm)} mm, in most cases it is about {format_sizes(usual)} "
            )
            what += f"mm; there its {format_sizes(facts.shape)} voxels would become {format_sizes(shape)}."
            remedy = "Look at the spacing in its header: it must be in mm."
            problems.append(Problem(name, what, remedy, fatal=bool(spacing_off.min() >= _OTHER_UNIT), case=name))
        elif extent_off.max() >= _FAR:
            what = f"it extends over {format_sizes(extent)} mm, most cases over about {format_sizes(usual_extent)} mm."
            problems.append(Problem(name, what, "Look at the image and its spacing.", fatal=False, case=name))
    return problems


def _times_off(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """How many times larger or smaller than the median each size is; axes by size, as images are stored either way."""
    logs = np.log(np.sort(sizes, axis=1))
    return np.asarray(np.exp(np.abs(logs - np.median(logs, axis=0))))


def _contrast_problems(cases: Mapping[str, ChannelFacts], channel: str) -> list[Problem]:
    usual = _median([facts.contrast for facts in cases.values()])
    return [
        Problem(
            name,
            f"{channel}: nine tenths of the voxels lie within {facts.contrast:.2g} standard deviations, in most cases "
            f"within {usual:.2g}; little contrast is left after normalisation.",
            "Look for single voxels with far too large values.",
            fatal=False,
            case=name,
        )
        for name, facts in cases.items()
        if facts.contrast < _LEAST_CONTRAST * usual
    ]


def _level_problems(cases: Mapping[str, ChannelFacts], channel: str) -> list[Problem]:
    usual = _median([facts.level for facts in cases.values()])
    width = _median([facts.width for facts in cases.values()])
    if not width > 0:
        return []
    return [
        Problem(
            name,
            f"{channel}: labelled voxels have the median {facts.level:.4g} and a middle range of {facts.width:.4g}, in "
            f"most cases about {usual:.4g} and {width:.4g}.",
            "Look whether it is in the same units as the others (Hounsfield units: slope and intercept).",
            fatal=False,
            case=name,
        )
        for name, facts in cases.items()
        if abs(facts.level - usual) > _MOST_SHIFT * width
        or facts.width > width * _OTHER_SCALE
        or facts.width < width / _OTHER_SCALE  # none of these holds of NaN
    ]


def _median(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.median(known)) if known else math.nan

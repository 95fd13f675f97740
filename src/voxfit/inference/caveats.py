"""What speaks against trusting a segmentation: an image without contrast, or far from those of the training.

Voxel sizes and extents are compared in order of size, so that it does not matter along which axes an image is stored.
Intensities are compared as the networks see them, after normalisation, which says the same of any scanner's units.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import Self

from voxfit.core.records import Record
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.volume import Volume
from voxfit.planning.grid import ClipAndScale
from voxfit.planning.plan import Plan

PERCENTILES = (0.5, 50.0, 99.5)
NO_FOREGROUND = "the label map has no foreground."

_FAR = 3.0
"""So many times smaller than the smallest of the training, or larger than the largest, is far from it."""
_FAR_FROM_MEDIAN = 8.0
"""The same, where only the median of the training is known: voxels of one dataset differ by as much."""
_MARGIN = 0.4
"""Percentiles may lie outside of those of the training by this share of all its intensities. Unseen images of the heart
and the hippocampus (MR) stay within a third, trained on as few as five; most inverted ones do not."""
_FLAT = 0.05
"""Deviations of the training's foreground; an image has at least one."""
_SAMPLE = 2**17


class Span(Record):
    """From the lowest to the highest value of the training images."""

    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """That of some values."""
        found = [float(value) for value in values]
        return cls(low=min(found), high=max(found))

    def is_far(self, value: float) -> bool:
        """Whether a length lies several times below or above."""
        return not self.low / _FAR <= value <= self.high * _FAR

    def __str__(self) -> str:
        return f"{self.low:.3g}" if self.low == self.high else f"{self.low:.3g} to {self.high:.3g}"


Spans = Annotated[tuple[Span, ...], Field(min_length=3, max_length=3)]


class TrainingRanges(Record):
    """What the images were like that a model was trained on.

    Attributes:
        spacing_mm: of the axes in order of their voxels' size, the finest first.
        extent_mm: of the whole images, the shortest axis first.
        intensities: for each channel, of the `PERCENTILES` of normalised images; empty where they were not measured.
    """

    spacing_mm: Spans
    extent_mm: Spans
    intensities: tuple[Spans, ...] = ()


def ranges_of(
    grids: Sequence[tuple[Sequence[int], Sequence[float]]], measured: Sequence[NDArray[np.float64]] = ()
) -> TrainingRanges:
    """The ranges of some images.

    Args:
        grids: shape and spacing in mm of each whole image.
        measured: `percentiles` of prepared images.
    """
    spacings = [sorted(spacing) for _, spacing in grids]
    return TrainingRanges(
        spacing_mm=tuple(Span.of(values) for values in zip(*spacings, strict=True)),
        extent_mm=tuple(Span.of(values) for values in zip(*(_extents(*grid) for grid in grids), strict=True)),
        intensities=tuple(
            tuple(Span.of(values) for values in channel) for channel in np.moveaxis(np.stack(measured), 0, -1)
        )
        if len(measured)
        else (),
    )


def percentiles(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """The `PERCENTILES` (axis 1) of each channel (axis 0) of an image (channel, z, y, x), from some of its voxels."""
    step = max(round((image[0].size / _SAMPLE) ** (1 / 3)), 1)
    sample = np.asarray(image[:, ::step, ::step, ::step]).reshape(len(image), -1)
    return np.percentile(sample.astype(np.float64), PERCENTILES, axis=1).T


def caveats_of(
    volume: Volume, prepared: NDArray[np.float32], plan: Plan, known: TrainingRanges | None
) -> tuple[str, ...]:
    """What is to be said of an image, a sentence each; nothing of an image like those of the training.

    Args:
        volume: (channel, z, y, x), as it was read.
        prepared: the same as a network sees it.
        plan: of the model.
        known: what its training images were like; None in models that do not say it, whose plan knows the median.
    """
    flat = [
        name for name, channel in zip(plan.channel_names, volume.array, strict=True) if channel.min() == channel.max()
    ]
    if len(flat) == len(plan.channel_names):
        return ("all voxels of the image are equal: there is nothing to see.",)
    found = [f"all voxels of the channel {name} are equal." for name in flat]
    if (places := known or _median_ranges(plan)) and (unlike := _unlike_places(volume.geometry, places)):
        return (*found, *unlike)  # what it shows is not comparable then
    if known and known.intensities:
        found += _unlike_intensities(percentiles(prepared), plan, known)
    elif not flat:
        found += _clipped_away(percentiles(prepared), plan)
    return tuple(found)


def _extents(shape: Sequence[int], spacing_mm: Sequence[float]) -> list[float]:
    return sorted(count * size for count, size in zip(shape, spacing_mm, strict=True))


def _median_ranges(plan: Plan) -> TrainingRanges | None:
    """From the median case at the plan's spacing; none where a plan has slices only, which know no third axis."""
    volumes = [item for item in plan.configurations.values() if item.dimension == 3]
    if not volumes:
        return None
    factor = _FAR_FROM_MEDIAN / _FAR
    median = ranges_of([(item.median_shape, item.spacing) for item in volumes])

    def widened(spans: Sequence[Span]) -> tuple[Span, ...]:
        return tuple(Span(low=span.low / factor, high=span.high * factor) for span in spans)

    return TrainingRanges(spacing_mm=widened(median.spacing_mm), extent_mm=widened(median.extent_mm))


def _unlike_places(geometry: Geometry, known: TrainingRanges) -> list[str]:
    found = []
    sizes, extents = sorted(geometry.spacing_mm), _extents(geometry.shape, geometry.spacing_mm)
    if any(span.is_far(size) for span, size in zip(known.spacing_mm, sizes, strict=True)):
        found.append(
            f"the spacing is {_by(sizes)} mm, but {_by(known.spacing_mm)} mm in training. Look at the header, its unit."
        )
    if any(span.is_far(extent) for span, extent in zip(known.extent_mm, extents, strict=True)):
        found.append(f"the image measures {_by(extents)} mm, but {_by(known.extent_mm)} mm in training.")
    return found


def _unlike_intensities(seen: NDArray[np.float64], plan: Plan, known: TrainingRanges) -> list[str]:
    found = []
    for name, values, spans in zip(plan.channel_names, seen.tolist(), known.intensities, strict=True):
        margin = _MARGIN * (max(span.high for span in spans) - min(span.low for span in spans))
        for percent, value, span in zip(PERCENTILES, values, spans, strict=True):
            if not span.low - margin <= value <= span.high + margin:
                found.append(
                    f"the intensities of {name} are unlike those of the training: the {percent:g} % percentile is "
                    f"{value:.3g} after normalisation, but {span} in training. Is it in another unit, or inverted?"
                )
                break
    return found


def _clipped_away(seen: NDArray[np.float64], plan: Plan) -> list[str]:
    """Channels with almost no contrast after the clipping that is fitted to the training's foreground."""
    return [
        f"the channel {name} has hardly any contrast between {rule.lower:.4g} and {rule.upper:.4g}, where foreground "
        "had its intensities in training. Is it in another unit?"
        for name, rule, values in zip(plan.channel_names, plan.normalization, seen, strict=True)
        if isinstance(rule, ClipAndScale) and values[-1] - values[0] < _FLAT
    ]


def _by(sizes: Sequence[object]) -> str:
    return " x ".join(_short(size) for size in sizes)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)

"""What preprocessing depends on: grid, normalisation, and in which way cases are brought there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, field_validator

from voxfit.core.records import Record, Sparse
from voxfit.imaging.geometry import is_orientation


class Oriented(Sparse):
    """A record of images that are brought to one order and direction of axes.

    Attributes:
        orientation: where the axes (x, y, z) of the voxels point, as "LPS"; empty where images stay as they are stored.
    """

    left_out = ("orientation",)
    orientation: str = ""

    @field_validator("orientation")
    @classmethod
    def _known(cls, code: str) -> str:
        if code and not is_orientation(code):
            raise ValueError('orientation is three letters, one of each pair L/R, P/A, S/I, as in "LPS", or empty')
        return code


class ZScore(Record):
    """Subtract the mean and divide by the deviation of the case (method.md [P4]).

    Attributes:
        inside_mask: statistics from the nonzero mask only, and 0 outside of it.
    """

    kind: Literal["z_score"] = "z_score"
    inside_mask: bool = False


class ClipAndScale(Record):
    """Clip, subtract and divide by constants of the training set (method.md [P3], CT)."""

    kind: Literal["clip_and_scale"] = "clip_and_scale"
    lower: float
    upper: float
    mean: float
    standard_deviation: PositiveFloat


class MissingCTStatistics(Record):
    """A CT channel of a fingerprint without intensities: enough to plan shapes, not to preprocess."""

    kind: Literal["unmeasured"] = "unmeasured"


class UnitRange(Record):
    """The case's own minimum becomes 0, its maximum 1 (nnU-Net v2)."""

    kind: Literal["unit_range"] = "unit_range"


class Divide(Record):
    """Division by a constant: 255 for colours (nnU-Net v2), 1 for intensities that stay as they are."""

    kind: Literal["divide"] = "divide"
    by: PositiveFloat


Normalization = Annotated[ZScore | ClipAndScale | UnitRange | Divide | MissingCTStatistics, Field(discriminator="kind")]


class Preparation(Record):
    """How cases are brought to a grid; the default is the paper's way (method.md [P2]).

    Attributes:
        first: what comes first, resampling or normalisation (nnU-Net v2).
        coarse_axis_ratio: where the voxels of one axis are more than this many times longer than the shortest, on the
            old grid or else on the new one, this axis is resampled separately, by nearest neighbour (nnU-Net v2: 3).
            None: all axes alike.
        labels: nearest neighbour, or the class whose linearly interpolated mask is largest (nnU-Net v2).
    """

    first: Literal["resample", "normalize"] = "resample"
    coarse_axis_ratio: PositiveFloat | None = None
    labels: Literal["nearest", "linear"] = "nearest"


class Grid(Oriented):
    """What preprocessing depends on: cases with the same grid share one store.

    Attributes:
        spacing_mm: (z, y, x) of the resampled cases; None for an axis that keeps its own.
        normalization: one for each channel.
        preparation: how cases are brought to the grid.
        orientation: see `Oriented`; all other values are of the turned axes.
    """

    spacing_mm: tuple[PositiveFloat | None, ...]
    normalization: tuple[Normalization, ...]
    preparation: Preparation = Preparation()

    @property
    def folder(self) -> str:
        """The name of its store: "1x0.8x0.8"."""
        return "x".join("any" if size is None else f"{size:.4g}" for size in self.spacing_mm)

    def spacing_of(self, spacing_mm: Sequence[float]) -> tuple[float, ...]:
        """The spacing that a case of `spacing_mm` gets."""
        return tuple(old if new is None else new for new, old in zip(self.spacing_mm, spacing_mm, strict=True))

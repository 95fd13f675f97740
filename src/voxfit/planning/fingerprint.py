"""The dataset fingerprint: shapes, spacings, intensities and components of the training cases, measured in one pass."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from typing_extensions import Self

from voxfit.core.errors import RecordError
from voxfit.core.records import Made, Record, digest_of, read_json
from voxfit.imaging.dataset import Dataset
from voxfit.imaging.geometry import Box, Turn, nonzero_box, usual_orientation
from voxfit.imaging.labels import Label, Labels
from voxfit.imaging.verification import LabelledVolume
from voxfit.planning.grid import Oriented
from voxfit.planning.intensities import Counts, Intensities, count, merge, statistics

_CT_WORD = re.compile(r"(?<![a-z])ct(?![a-z])", re.IGNORECASE)


Sizes = Annotated[tuple[PositiveInt, ...], Field(min_length=3, max_length=3)]


class CaseFingerprint(Record):
    """One training case: shape after nonzero cropping and before, (z, y, x), and spacing in mm."""

    shape: Sizes
    uncropped_shape: Sizes
    spacing_mm: Annotated[tuple[PositiveFloat, ...], Field(min_length=3, max_length=3)]


class SkippedCase(Record):
    """A training case that was left out because it cannot be used, and why."""

    name: str
    reasons: tuple[str, ...]


class Fingerprint(Oriented, Made):
    """The measured facts of a dataset.

    Attributes:
        dataset: its name.
        dimension: 2 or 3.
        channel_names, labels: of the dataset.
        cases: one for each training case.
        orientation: of most training cases; shapes and spacings are those of the cases turned to it.
        intensities: one for each channel; null where nobody needs it (only CT channels do) or it was not measured.
        single_component_labels: indices of classes that are one component in every training label that has them [I4].
        inputs_digest: digest of the files that were measured.
        skipped: cases that were left out, because they cannot be used and the user wants to go on without them.
        classes: the indices of the foreground classes of each training case, by name; empty where nobody looked.
    """

    schema_name: ClassVar[str] = "voxfit.fingerprint/2"
    dataset: str
    dimension: Annotated[int, Field(ge=2, le=3)] = 3
    channel_names: tuple[str, ...]
    labels: Labels
    cases: Annotated[tuple[CaseFingerprint, ...], Field(min_length=1)]
    intensities: tuple[Intensities | None, ...]
    single_component_labels: tuple[int, ...] = ()
    inputs_digest: str = ""
    skipped: tuple[SkippedCase, ...] = ()
    classes: dict[str, tuple[int, ...]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.intensities) != len(self.channel_names):
            raise ValueError("intensities needs one entry for each channel")
        return self

    def facts_digest(self) -> str:
        """Changes when a plan would; not with the time stamps of the files."""
        return digest_of(self.model_dump(mode="json", exclude={"inputs_digest", "skipped", "classes"}))

    def median_spacing_mm(self) -> tuple[float, ...]:
        """Per-axis median over the cases, (z, y, x)."""
        return tuple(float(value) for value in np.median([case.spacing_mm for case in self.cases], axis=0))

    def median_shape_at(self, spacing_mm: Sequence[float]) -> tuple[int, ...]:
        """Per-axis median of the cases' shapes after resampling to a spacing, rounded half to even."""
        shapes = [resampled_shape(case.shape, case.spacing_mm, spacing_mm) for case in self.cases]
        return tuple(int(value) for value in np.rint(np.median(shapes, axis=0)))

    def size_after_cropping(self) -> float:
        """Cropped voxels of all cases together, as a share of the uncropped (method.md [P2])."""
        return sum(math.prod(case.shape) for case in self.cases) / sum(
            math.prod(case.uncropped_shape) for case in self.cases
        )


def resampled_shape(
    shape: Sequence[int], spacing_mm: Sequence[float], new_spacing_mm: Sequence[float]
) -> tuple[int, ...]:
    """The shape that covers the same extent at another spacing (at least one voxel an axis)."""
    # In this order, as nnU-Net v2: halves round to the same side.
    exact = np.asarray(spacing_mm) / np.asarray(new_spacing_mm) * np.asarray(shape)
    return tuple(max(int(size), 1) for size in np.rint(exact))


def is_ct(channel_name: str) -> bool:
    """Whether a channel's name contains the word "ct" (method.md [P3])."""
    return _CT_WORD.search(channel_name) is not None


@dataclass(frozen=True)
class CaseMeasurement:
    """What one case adds to the fingerprint.

    Attributes:
        geometry: its shapes and spacing.
        counted: the foreground intensities of each CT channel.
        components: connected components of each foreground class (full connectivity), 0 where it is absent.
        orientation: of its file; empty where unknown.
    """

    geometry: CaseFingerprint
    counted: dict[int, Counts]
    components: tuple[int, ...]
    orientation: str = ""


class Measurements:
    """What cases add up to, one by one: the memory for their intensities does not grow with their number.

    Attributes:
        cases: shapes and spacing of each.
        orientations: of each.
        counted: the foreground intensities of each CT channel, of all cases.
        components: of each foreground class, the most that a case has.
    """

    def __init__(self, cases: Iterable[CaseMeasurement] = ()) -> None:
        self.cases: list[CaseFingerprint] = []
        self.orientations: list[str] = []
        self.counted: dict[int, Counts] = {}
        self.components: tuple[int, ...] = ()
        for case in cases:
            self.add(case)

    def add(self, case: CaseMeasurement) -> None:
        """One more case."""
        self.cases.append(case.geometry)
        self.orientations.append(case.orientation)
        for channel, counts in case.counted.items():
            known = self.counted.get(channel)
            self.counted[channel] = merge([known, counts]) if known else counts
        self.components = tuple(map(max, self.components or case.components, case.components))


def crop_box(image: NDArray[np.float32]) -> Box:
    """The box of voxels that are nonzero in any channel; the whole image where there are none (method.md [P1])."""
    box = nonzero_box((image != 0).any(axis=0))
    return box or Box.whole(image.shape[1:])


def measure_case(case: LabelledVolume, channel_names: Sequence[str], labels: Labels) -> CaseMeasurement:
    """Measure one training case in memory."""
    box = crop_box(case.image)
    foreground = case.label > 0
    counted = {
        channel: count(case.image[channel][foreground]) for channel, name in enumerate(channel_names) if is_ct(name)
    }
    geometry = CaseFingerprint(
        shape=box.shape, uncropped_shape=case.geometry.shape, spacing_mm=case.geometry.spacing_mm
    )
    components = count_components(case.label, labels.count)
    return CaseMeasurement(geometry, counted, components, case.geometry.orientation)


def count_components(label: NDArray[np.integer[Any]], classes: int) -> tuple[int, ...]:
    """Connected components (26 neighbours, 8 in a plane) of each foreground class."""
    import cc3d

    annotated = np.maximum(label, 0).astype(np.int32)  # voxels without annotation are negative
    components, total = cc3d.connected_components(annotated, connectivity=26, return_N=True)
    # Each component has one class: read it off any of its voxels.
    owner = np.zeros(total + 1, np.int64)
    owner[components.ravel()] = annotated.ravel()
    counts = np.bincount(owner[1:], minlength=classes)
    return tuple(int(count) for count in counts[1:classes])


def summarize(
    dataset: Dataset,
    dimension: int,
    measured: Measurements,
    refine: Callable[[int, tuple[int, ...]], Counts],
    inputs_digest: str = "",
) -> Fingerprint:
    """The fingerprint of all training cases.

    Args:
        dataset: what was measured.
        dimension: 2 or 3.
        measured: all training cases.
        refine: counts the foreground values of a channel that have certain upper halves, over all cases; called only
            where a channel has too many distinct values for one pass (`voxfit.planning.intensities`).
        inputs_digest: digest of the files.
    """
    intensities = tuple(
        statistics(measured.counted[channel], partial(refine, channel)) if is_ct(name) else None
        for channel, name in enumerate(dataset.channel_names)
    )
    single = tuple(index for index, most in enumerate(measured.components, 1) if most == 1)
    if dataset.labels.ignore is not None:
        single = ()  # where annotation is missing, nobody knows what is connected
    orientation = usual_orientation(measured.orientations)
    return Fingerprint(
        dataset=dataset.name,
        dimension=dimension,
        orientation=orientation,
        channel_names=dataset.channel_names,
        labels=dataset.labels,
        cases=tuple(
            _turned(case, Turn.between(own, orientation))
            for case, own in zip(measured.cases, measured.orientations, strict=True)
        ),
        intensities=intensities,
        single_component_labels=single,
        inputs_digest=inputs_digest,
    )


def _turned(case: CaseFingerprint, turn: Turn | None) -> CaseFingerprint:
    if turn is None:
        return case
    return CaseFingerprint(
        shape=turn.order(case.shape),
        uncropped_shape=turn.order(case.uncropped_shape),
        spacing_mm=turn.order(case.spacing_mm),
    )


def load_fingerprint(path: Path) -> Fingerprint:
    """Read our own `fingerprint.json`, or a list of published case geometries (`cases_after_nonzero_crop`).

    Raises:
        RecordError: the file is neither.
    """
    body = read_json(path)
    if not isinstance(body, dict) or "cases_after_nonzero_crop" not in body:
        return Fingerprint.load(path)
    try:
        share = body.get("relative_size_after_cropping", 1.0)
        shares = share if isinstance(share, list) else [share] * len(body["cases_after_nonzero_crop"])
        return Fingerprint(
            dataset=str(body["task"]),
            channel_names=tuple(
                name for _, name in sorted(body["channel_names"].items(), key=lambda item: int(item[0]))
            ),
            labels=Labels(
                classes=tuple(Label(name=name, value=value) for name, value in body["labels"].items() if value)
            ),
            cases=tuple(
                CaseFingerprint(
                    shape=tuple(case["shape"]),
                    # Only the share that cropping leaves is known: it is laid on the first axis.
                    uncropped_shape=(max(round(case["shape"][0] / part), 1), *case["shape"][1:]),
                    spacing_mm=tuple(case["spacing"]),
                )
                for case, part in zip(body["cases_after_nonzero_crop"], shares, strict=True)
            ),
            intensities=(None,) * len(body["channel_names"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise RecordError(f"{path}: is not a usable list of case geometries ({error}).") from error

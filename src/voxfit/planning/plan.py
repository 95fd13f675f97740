"""The plan: every number that preprocessing, network and training use, as records that a user may read and edit."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from typing_extensions import Self

from voxfit.core.records import Made, Record
from voxfit.imaging.labels import Labels
from voxfit.planning.architecture import MOST_FEATURES, UNET, Stages, Topology, count_weights, paper_stages
from voxfit.planning.grid import Grid, Normalization, Oriented, Preparation

_MOST_BATCH_VOXELS = 1 << 40
_MOST_WEIGHTS = 1 << 34

PAPER = "nnunet-2018"
"""The planner and the recipe of the paper."""

ConfigurationName = Literal["2d", "3d", "3d_lowres", "3d_cascade"]

Activation = Literal["softmax", "sigmoid"] | None
"""What makes probabilities of logits; None where logits are averaged as they are."""


class Limits(Record):
    """The constants of the planning rules (method.md [A1]-[A5], [N3]); lower them for tests and small machines.

    Attributes:
        voxel_budget: V, the largest 3D patch in voxels.
        plane_voxels: voxels of a 2D batch.
        max_pool_2d, max_pool_3d: most poolings of an axis.
        min_edge: an axis is halved while it is at least this long.
        base_features: feature maps at full resolution.
        max_features_2d, max_features_3d: the cap on feature maps; null for none.
        dataset_fraction: most of the dataset's voxels that a batch may hold.
        min_batch_size: the batch is never smaller.
        cascade_factor: a median shape of more than this many V gets a cascade.
    """

    voxel_budget: PositiveInt = 128**3
    plane_voxels: PositiveInt = 256 * 256 * 42
    max_pool_2d: PositiveInt = 6
    max_pool_3d: PositiveInt = 5
    min_edge: PositiveInt = 8
    base_features: PositiveInt = 30
    max_features_2d: PositiveInt | None = 480
    max_features_3d: PositiveInt | None = 320
    dataset_fraction: PositiveFloat = 0.05
    min_batch_size: PositiveInt = 2
    cascade_factor: PositiveInt = 4


class Inference(Record):
    """How predictions are put together; the default is the paper's way (method.md [I1]-[I3]).

    Attributes:
        average_over: what is averaged over tiles, mirrored variants and folds: probabilities, or logits (nnU-Net v2).
        gaussian_center: a Gaussian about the tile's centre, or about the voxel behind it (nnU-Net v2).
        mirror_axes: of (z, y, x), along which variants are mirrored; None for all that the network sees.
        cascade_input: how a cascade's first stage reaches the second: its probabilities are brought to the second's
            grid, or its segmentation of the whole image is prepared like a label (nnU-Net v2).
    """

    average_over: Literal["probabilities", "logits"] = "probabilities"
    gaussian_center: Literal["centred", "shifted"] = "centred"
    mirror_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] | None = None
    cascade_input: Literal["probabilities", "segmentation"] = "probabilities"


class Configuration(Record):
    """One model: its grid, network, patch and batch.

    Attributes:
        spacing: mm of the patch axes; (y, x) for 2D, of the plane's axes.
        median_shape: of the resampled training cases, same axes.
        patch_size, batch_size: what one training step sees.
        num_pool: poolings of each patch axis.
        base_features, max_features, pooling: see `paper_stages`.
        dice: Dice over each sample, or over the batch as one volume (method.md [T2]).
        augmentation: the parameter set, or the 2D set on each slice (method.md [T5], [T6]).
        slice_axis, slice_spacing: 2D only: the axis that is cut into slices, and its spacing; null for each case's own.
        stages: the levels of the network, where they are not those that follow from the four numbers above [N2].
        previous: the configuration whose segmentation is extra input (the cascade).
        why: the reason for each number.
    """

    spacing: tuple[PositiveFloat, ...]
    median_shape: tuple[PositiveInt, ...]
    patch_size: tuple[Annotated[PositiveInt, Field(le=1 << 20)], ...]
    batch_size: Annotated[PositiveInt, Field(le=65536)]
    num_pool: tuple[Annotated[int, Field(ge=0, le=12)], ...]
    base_features: Annotated[PositiveInt, Field(le=MOST_FEATURES)]
    max_features: PositiveInt | None
    pooling: Literal["max", "strided"] = "max"
    dice: Literal["sample", "batch"]
    augmentation: Literal["2d", "3d", "2d_slices"]
    slice_axis: Annotated[int, Field(ge=0, le=2)] | None = None
    slice_spacing: PositiveFloat | None = None
    stages: Stages | None = None
    previous: ConfigurationName | None = None
    why: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        axes = len(self.patch_size)
        if axes not in (2, 3) or not axes == len(self.num_pool) == len(self.spacing) == len(self.median_shape):
            raise ValueError("spacing, median_shape, patch_size and num_pool need the same 2 or 3 axes")
        if (axes == 2) != (self.slice_axis is not None) or (axes == 3 and self.slice_spacing is not None):
            raise ValueError("slice_axis and slice_spacing belong to 2D configurations, and only to them")
        for size, pools in zip(self.patch_size, self.num_pool, strict=True):
            if size % 2**pools:
                raise ValueError(
                    f"a patch edge of {size} cannot be pooled {pools} times; make it a multiple of {2**pools}"
                )
        return self

    @property
    def dimension(self) -> int:
        """2 or 3."""
        return len(self.patch_size)

    def with_width(self, width: int) -> Configuration:
        """The same with other feature maps: `width` at full resolution, explicit stages in proportion."""
        stages = self.stages
        if stages:
            features = tuple(max(item * width // self.base_features, 1) for item in stages.features)
            stages = stages.revised(features=features)
        return self.revised(base_features=width, stages=stages)

    @property
    def spacing_mm(self) -> tuple[float | None, ...]:
        """(z, y, x) of the resampled cases; None for an axis that keeps its own."""
        if self.slice_axis is None:
            return self.spacing
        return (*self.spacing[: self.slice_axis], self.slice_spacing, *self.spacing[self.slice_axis :])

    @property
    def patch_box(self) -> tuple[int, ...]:
        """The patch as (z, y, x) voxels: a slice of thickness 1 for 2D."""
        if self.slice_axis is None:
            return self.patch_size
        return (*self.patch_size[: self.slice_axis], 1, *self.patch_size[self.slice_axis :])


class Plan(Oriented, Made):
    """All decisions for one dataset; edit `plan.json` before training to change them.

    Attributes:
        dataset: its name.
        channel_names, labels: of the dataset.
        num_cases: training cases.
        normalization: for each channel.
        single_component_labels: indices of classes that are one connected component in every training label [I4].
        limits: the constants that the rules used.
        preparation: how cases are brought to a grid.
        orientation: of most training cases; all cases are turned to it first.
        inference: how predictions are put together.
        configurations: by name. A cascade is offered where `3d_lowres` and `3d_cascade` are among them.
        changes: what a budget or a user's option changed, as sentences for the reader.
        planner: whose rules made it.
        network: of all configurations; see `Recipe`.
        inputs_digest: digest of planner, fingerprint's facts and limits; when they change, so does the plan.
    """

    schema_name: ClassVar[str] = "voxfit.plan/2"
    dataset: str
    channel_names: tuple[str, ...]
    labels: Labels
    num_cases: PositiveInt
    normalization: tuple[Normalization, ...]
    single_component_labels: tuple[int, ...] = ()
    limits: Limits = Limits()
    preparation: Preparation = Preparation()
    inference: Inference = Inference()
    configurations: dict[ConfigurationName, Configuration]
    changes: tuple[str, ...] = ()
    planner: str = PAPER
    network: str = UNET
    inputs_digest: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.configurations:
            raise ValueError("configurations is empty; keep at least one")
        if len(self.normalization) != len(self.channel_names):
            raise ValueError("normalization needs one entry for each channel")
        for name, configuration in self.configurations.items():
            previous = configuration.previous
            if previous and (previous not in self.configurations or self.configurations[previous].previous):
                raise ValueError(
                    f"configurations.{name}.previous is {previous!r}, which must be there and have no previous itself"
                )
            if (voxels := math.prod(configuration.patch_size) * configuration.batch_size) > _MOST_BATCH_VOXELS:
                raise ValueError(f"configurations.{name}: a batch of {voxels} voxels is too large")
            if (count := count_weights(self.topology(name))) > _MOST_WEIGHTS:
                raise ValueError(f"configurations.{name}: a network of {count} weights is too large")
        return self

    def grid(self, name: ConfigurationName) -> Grid:
        """What preprocessing of a configuration depends on."""
        return Grid(
            spacing_mm=self.configurations[name].spacing_mm,
            normalization=self.normalization,
            preparation=self.preparation,
            orientation=self.orientation,
        )

    def topology(self, name: ConfigurationName) -> Topology:
        """What the network of a configuration depends on."""
        configuration = self.configurations[name]
        extra = self.labels.count - 1 if configuration.previous else 0
        stages = configuration.stages or paper_stages(
            configuration.num_pool, configuration.base_features, configuration.max_features, configuration.pooling
        )
        return Topology(
            in_channels=len(self.channel_names) + extra,
            out_channels=self.labels.outputs,
            network=self.network,
            **dict(stages),
        )

    @property
    def activation(self) -> Activation:
        """Of the networks' outputs, before they are averaged."""
        if self.inference.average_over == "logits":
            return None
        return "sigmoid" if self.labels.regions else "softmax"

"""What `model.json` says of a model."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar

from pydantic import Field, model_validator
from typing_extensions import Self

from voxfit.core.errors import ModelError, RecordError, UsageError
from voxfit.core.extensions import extension
from voxfit.core.records import Made, Record
from voxfit.inference.caveats import TrainingRanges
from voxfit.planning.architecture import UNET
from voxfit.planning.plan import ConfigurationName, Plan


class Member(Record):
    """The networks of one configuration.

    Attributes:
        configuration: its name.
        weights: a file for each fold, relative to the model and inside of it.
        checksums: SHA-256 of each file; none in models that were made before there were any.
    """

    configuration: ConfigurationName
    weights: Annotated[tuple[str, ...], Field(min_length=1, max_length=1000)]
    checksums: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _inside(self) -> Self:
        for name in self.weights:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name or "\0" in name:
                raise ValueError(f"the weights {name!r} are not inside of the model folder")
        if len(self.checksums) not in (0, len(self.weights)):
            raise ValueError("checksums needs one entry for each weights file")
        return self

    def only(self, files: Collection[str]) -> Member:
        """The same with some of its files."""
        kept = [index for index, file in enumerate(self.weights) if file in files]
        return self.revised(
            weights=tuple(self.weights[index] for index in kept),
            checksums=tuple(self.checksums[index] for index in kept if self.checksums),
        )


class Fast(Record):
    """The member that predicts alone, with one fold and without mirroring, where speed matters most.

    Attributes:
        configuration: of the members.
        cross_validated_dice: mean foreground Dice of this way of predicting.
    """

    configuration: ConfigurationName
    cross_validated_dice: float


class ModelDescription(Made):
    """What `model.json` holds.

    Attributes:
        name: of the chosen candidate, "3d" or "2d+3d".
        plan: how cases are prepared and networks are built.
        members: their probabilities are averaged.
        stages: the previous stages that members need.
        cross_validated_dice: mean foreground Dice of the candidate, None where it was not measured.
        fast: the fastest way to predict; None where it was not measured.
        inputs_digest: digest of the selection and the weights.
        made_by: program and version.
        trained_on: what the training images were like; None in models that were made before it was kept.
        network_from: the package that offers the network, with its version; empty for the U-Net.
    """

    schema_name: ClassVar[str] = "voxfit.model/2"
    name: str
    plan: Plan
    members: tuple[Member, ...]
    stages: tuple[Member, ...] = ()
    cross_validated_dice: float | None
    fast: Fast | None = None
    made_by: str
    trained_on: TrainingRanges | None = None
    network_from: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.members:
            raise ValueError("members is empty")
        there = {member.configuration for member in (*self.stages, *self.members)}
        for name in there:
            if name not in self.plan.configurations:
                raise ValueError(f"the plan has no configuration {name!r}")
            previous = self.plan.configurations[name].previous
            if previous and previous not in there:
                raise ValueError(f"{name} needs {previous}, which is not among the stages")
        if self.trained_on and len(self.trained_on.intensities) not in (0, len(self.plan.channel_names)):
            raise ValueError("trained_on.intensities needs one entry for each channel")
        return self

    def fast_members(self) -> tuple[Member, ...]:
        """The member that predicts fast, and the stage before it, each with its first fold."""
        name = self.fast.configuration if self.fast else self.members[0].configuration
        previous = self.plan.configurations[name].previous
        return tuple(
            member.only(member.weights[:1])
            for member in (*self.stages, *self.members)
            if member.configuration in (name, previous)
        )

    def cost_of_speed(self) -> str:
        """What `Model.open(fast=True)` does, and what that costs, in words."""
        if self.fast is None or self.cross_validated_dice is None:
            return "Fast: one fold, no mirroring. What that costs was not measured for this model."
        return (
            f"Fast: {self.fast.configuration} alone, one fold, no mirroring. In cross-validation that had the Dice "
            f"{self.fast.cross_validated_dice:.4f}, and {self.name} with mirroring {self.cross_validated_dice:.4f}."
        )


def model_folder(path: str | Path) -> tuple[Path, ModelDescription]:
    """The folder with `model.json`, and what that says.

    Args:
        path: this folder, or a run folder with `model/`.

    Raises:
        ModelError: it is no model, or `model.json` is damaged.
    """
    folder = Path(path)
    if not (folder / "model.json").is_file() and (folder / "model" / "model.json").is_file():
        folder = folder / "model"
    if not (folder / "model.json").is_file():
        raise ModelError(
            f"{path}: holds no model (no model.json). Name a finished run of `voxfit fit`, or its model folder."
        )
    try:
        description = ModelDescription.load(folder / "model.json")
        if description.plan.network != UNET:
            extension("network", description.plan.network)
    except RecordError as error:
        raise ModelError(str(error)) from None
    except UsageError as error:
        raise ModelError(f"{folder}: {error} The model was made with {description.network_from}.") from None
    return folder, description

"""The self-contained model: a folder that predicts without any training code and without pickle.

`model.json` says everything (plan, members, scores); `weights/*.safetensors` are the networks. Move it anywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar, Literal, overload

import numpy as np
import safetensors.torch
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from safetensors import SafetensorError
from typing_extensions import Self

from voxfit.core.errors import DatasetError, ModelError, Problem, RecordError, UsageError
from voxfit.core.records import Record
from voxfit.imaging.files import Case
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.verification import read_case_image
from voxfit.imaging.volume import Volume, from_sitk, to_sitk
from voxfit.inference.cascade import upsampled, with_previous
from voxfit.inference.postprocessing import Part, segment, to_values
from voxfit.inference.predictor import Predictor
from voxfit.networks.unet import UNet, build_network
from voxfit.planning.grid import Grid
from voxfit.planning.plan import ConfigurationName, Plan
from voxfit.preprocessing.case import PreparedCase, prepare


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


class ModelDescription(Record):
    """What `model.json` holds.

    Attributes:
        name: of the chosen candidate, "3d" or "2d+3d".
        plan: how cases are prepared and networks are built.
        members: their probabilities are averaged.
        stages: the previous stages that members need.
        cross_validated_dice: mean foreground Dice of the candidate, None where it was not measured.
        made_from: digest of the selection and the weights.
        made_by: program and version.
    """

    schema_name: ClassVar[str] = "voxfit.model/1"
    name: str
    plan: Plan
    members: tuple[Member, ...]
    stages: tuple[Member, ...] = ()
    cross_validated_dice: float | None
    made_from: str
    made_by: str

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
        return self


class Model:
    """A fitted model, ready to predict.

    Example: `Model.open("run").predict(SimpleITK.ReadImage("image.nii.gz"))`.
    """

    def __init__(self, folder: Path, description: ModelDescription, device: str, *, mirror: bool = True) -> None:
        self.description = description
        self.plan = description.plan
        self.predictors: dict[ConfigurationName, Predictor] = {
            member.configuration: make_predictor(
                self.plan,
                member.configuration,
                _load_networks(self.plan, member, folder),
                device,
                mirror=mirror,
            )
            for member in (*description.stages, *description.members)
        }

    @staticmethod
    def open(
        path: str | Path, device: Literal["auto", "cpu", "cuda", "mps"] | str = "auto", *, mirror: bool = True
    ) -> Model:
        """Open a model folder, or the model of a run folder.

        Args:
            path: a folder with `model.json`, or a run folder with `model/`.
            device: where to compute; "auto" takes a GPU if there is one.
            mirror: test-time mirroring [I2]; without it, prediction is 4 (2D) or 8 (3D) times faster.

        Raises:
            ModelError: it is no model, or a file of it is missing or damaged.
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
        except RecordError as error:
            raise ModelError(str(error)) from None
        return Model(folder, description, choose_device(device), mirror=mirror)

    @overload
    def predict(self, image: sitk.Image) -> sitk.Image: ...

    @overload
    def predict(self, image: NDArray[np.generic], spacing_mm: Sequence[float]) -> NDArray[np.generic]: ...

    def predict(
        self, image: sitk.Image | NDArray[np.generic], spacing_mm: Sequence[float] | None = None
    ) -> sitk.Image | NDArray[np.generic]:
        """Segment one image.

        Args:
            image: a SimpleITK image, or an array (z, y, x), (channel, z, y, x), or, for 2D models, (y, x) or
                (channel, y, x).
            spacing_mm: of an array's spatial axes, in their order.

        Returns:
            The label map with the values of the training labels: an image with the same geometry, or an array of the
            spatial shape.
        """
        if isinstance(image, sitk.Image):
            volume = from_sitk(image)
            return to_sitk(self.predict_volume(volume), volume.geometry)
        if spacing_mm is None:
            raise UsageError("predict needs spacing_mm for an array: the voxel size in mm, in the order of its axes.")
        axes = len(spacing_mm)
        array = np.asarray(image, np.float32)
        if axes not in (2, 3) or array.ndim not in (axes, axes + 1):
            raise UsageError(f"An array of {array.ndim} axes does not go with a spacing of {axes}.")
        spatial = array.shape[-axes:]
        full = (1,) * (3 - axes) + spatial
        spacing = (1.0,) * (3 - axes) + tuple(float(size) for size in spacing_mm)
        volume = Volume(array.reshape((-1, *full)).copy(), Geometry(full, spacing, dimension=axes))
        return self.predict_volume(volume).reshape(spatial)

    def predict_case(self, case: Case) -> tuple[NDArray[np.generic], Geometry]:
        """Read the files of a case and segment it.

        Returns:
            (z, y, x) label values and the geometry to write them with.

        Raises:
            DatasetError: a file is unusable.
        """
        volume = read_case_image(case, len(self.plan.channel_names))
        if volume.geometry.dimension == 2 and any(item.dimension == 3 for item in self.plan.configurations.values()):
            what = "the image is 2D, but the model was trained on 3D images."
            raise DatasetError(Problem(case.images[0], what, "Give the volume as one file."))
        try:
            return self.predict_volume(volume), volume.geometry
        except DatasetError as error:  # which knows no file
            raise DatasetError([replace(item, where=case.images[0]) for item in error.problems]) from None

    def predict_volume(self, volume: Volume) -> NDArray[np.generic]:
        """Segment a (channel, z, y, x) volume; returns (z, y, x) label values."""
        channels = len(self.plan.channel_names)
        if len(volume.array) != channels:
            raise DatasetError(
                Problem(
                    "image",
                    f"it has {len(volume.array)} channels, but the model was trained on {channels} "
                    f"({', '.join(self.plan.channel_names)}).",
                    "Give all channels in this order.",
                )
            )
        grids = {self.plan.grid(member.configuration) for member in self.description.members}
        prepared = {grid: prepare(volume, grid) for grid in grids}
        parts = [self._part(member.configuration, prepared, volume) for member in self.description.members]
        return to_values(segment(parts, self.plan), self.plan.labels.values)

    def _part(self, name: ConfigurationName, prepared: dict[Grid, PreparedCase], volume: Volume) -> Part:
        """What one configuration says, after its previous stage where it has one."""
        case = prepared[self.plan.grid(name)]
        previous = self.plan.configurations[name].previous
        if previous is None:
            return self.predictors[name].predict(case.image), case.placement
        coarse = prepare(volume, self.plan.grid(previous))
        outputs = self.predictors[previous].predict(coarse.image)
        if self.plan.inference.handover == "segmentation":
            label = segment([(outputs, coarse.placement)], self.plan).astype(np.int16)
            case = prepare(volume, self.plan.grid(name), label)
            segmentation = case.label
        else:
            logits = self.plan.inference.averages == "logits"
            segmentation = upsampled(outputs, case.image.shape[1:], self.plan.labels, logits=logits)
        assert segmentation is not None  # a case that is given a label has one
        image = with_previous(case.image, segmentation, self.plan.labels.count - 1)
        return self.predictors[name].predict(image), case.placement


def make_predictor(
    plan: Plan, name: ConfigurationName, networks: Sequence[UNet], device: str, *, mirror: bool = True
) -> Predictor:
    """The predictor of one configuration, its networks moved to a device."""
    configuration, inference = plan.configurations[name], plan.inference
    axes = (0, 1, 2) if inference.mirror_axes is None else inference.mirror_axes
    return Predictor(
        [network.to(device).eval() for network in networks],
        configuration.patch_box,
        slice_axis=configuration.slice_axis,
        outputs=plan.labels.outputs,
        activation=None if inference.averages == "logits" else "sigmoid" if plan.labels.regions else "softmax",
        device=device,
        mirror_axes=axes if mirror else (),
        tile_weights=inference.tile_weights,
    )


def _load_networks(plan: Plan, member: Member, folder: Path) -> list[UNet]:
    """The networks of a member, their files compared with the checksums."""
    for file, checksum in zip(member.weights, member.checksums, strict=False):
        path = folder / file
        if path.is_file() and checksum_of(path) != checksum:
            raise ModelError(
                f"{path}: the weights are not those that the model was made with. Restore the model folder from its "
                "source."
            )
    return [load_network(plan, member.configuration, folder / file) for file in member.weights]


def checksum_of(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def load_network(plan: Plan, name: ConfigurationName, path: Path) -> UNet:
    """Build a network and load its weights.

    Raises:
        ModelError: the file is missing, damaged, or of another network.
    """
    network = build_network(plan.topology(name))
    try:
        network.load_state_dict(safetensors.torch.load_file(path))
    except FileNotFoundError:
        raise ModelError(f"{path}: the weights file is missing. Restore the model folder from its source.") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: the weights file is damaged ({error}). Restore it from its source.") from None
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ModelError(f"{path}: the weights are of another network ({reason}).") from None
    return network


def choose_device(name: str) -> str:
    """ "auto" becomes the best device there is.

    Raises:
        UsageError: the device is not there.
    """
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.append("mps")
    if torch.cuda.is_available():
        available.append("cuda")
    if name == "auto":
        return available[-1]
    if name.split(":", maxsplit=1)[0] not in available:
        raise UsageError(f"--device {name}: not there. This machine has: {', '.join(available)}.")
    return name

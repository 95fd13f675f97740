"""The self-contained model: a folder that predicts without any training code and without pickle.

`model.json` says everything (plan, members, scores); `weights/*.safetensors` are the networks. Move it anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, overload

import numpy as np
import safetensors.torch
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from voxfit.core.errors import DatasetError, ModelError, Problem, RecordError, UsageError
from voxfit.core.listening import Listener
from voxfit.core.records import Record
from voxfit.imaging.files import Case
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.verification import read_case_image
from voxfit.imaging.volume import Volume, from_sitk, to_sitk
from voxfit.inference.backends import Backend, adapt, parse_backend, require_openvino
from voxfit.inference.cascade import upsampled, with_previous
from voxfit.inference.postprocessing import Part, segment, to_values
from voxfit.inference.predictor import Network, Predictor
from voxfit.inference.quantization import open_quantization
from voxfit.inference.rounding import Range
from voxfit.networks.unet import UNet, build_network
from voxfit.planning.grid import Grid
from voxfit.planning.plan import ConfigurationName, Plan
from voxfit.preprocessing.case import PreparedCase, prepare


Adapter = Callable[..., Sequence[Network]]
"""`voxfit.inference.backends.adapt` with its options set."""


class Member(Record):
    """The networks of one configuration: a weights file (relative to the model) for each fold."""

    configuration: ConfigurationName
    weights: tuple[str, ...]


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


class Model:
    """A fitted model, ready to predict.

    Example: `Model.open("run").predict(SimpleITK.ReadImage("image.nii.gz"))`.
    """

    def __init__(
        self,
        folder: Path,
        description: ModelDescription,
        device: str,
        *,
        mirror: bool = True,
        backend: Backend | None = None,
        ranges: Mapping[str, Mapping[str, Range]] | None = None,
        listener: Listener | None = None,
    ) -> None:
        self.description = description
        self.plan = description.plan
        self.predictors: dict[ConfigurationName, Predictor] = {
            member.configuration: make_predictor(
                self.plan,
                member.configuration,
                [load_network(self.plan, member.configuration, folder / file) for file in member.weights],
                device,
                mirror=mirror,
                adapted=partial(
                    adapt,
                    backend=backend,
                    ranges=[ranges[file] for file in member.weights] if ranges else (),
                    listener=listener,
                ),
            )
            for member in (*description.stages, *description.members)
        }

    @staticmethod
    def open(
        path: str | Path,
        device: Literal["auto", "cpu", "cuda", "mps"] | str = "auto",
        *,
        mirror: bool = True,
        backend: Literal["auto"] | Backend = "auto",
        precision: Literal["float32", "int8"] = "float32",
        accept_loss: bool = False,
        listener: Listener | None = None,
    ) -> Model:
        """Open a model folder, or the model of a run folder.

        Args:
            path: a folder with `model.json`, or a run folder with `model/`.
            device: where to compute; "auto" takes a GPU if there is one.
            mirror: test-time mirroring [I2]; without it, prediction is 4 (2D) or 8 (3D) times faster.
            backend: what runs the networks; "auto" finds the fastest while it predicts, and keeps the choice.
            precision: "int8" for what `voxfit quantize` has made: on CPUs only, by OpenVINO.
            accept_loss: take INT8 even where it loses `quantization.MOST_LOSS` or more.
            listener: hears of a backend that fails here.

        Raises:
            ModelError: it is no model, a file of it is missing or damaged, or there is no INT8 form.
            UsageError: backend or precision are not to be had here, or INT8 loses too much.
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
        device = choose_device(device)
        ranges = None
        if precision == "int8":
            if backend not in ("auto", "openvino"):
                raise UsageError(f"--precision int8 --backend {backend}: only OpenVINO computes with 8 bits.")
            require_openvino("--precision int8", device)
            ranges = open_quantization(folder, accept_loss=accept_loss)
        elif precision != "float32":
            raise UsageError(f"--precision {precision}: there are float32 and int8.")
        chosen = parse_backend(backend)
        return Model(folder, description, device, mirror=mirror, backend=chosen, ranges=ranges, listener=listener)

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
        return self.predict_volume(volume), volume.geometry

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
    plan: Plan,
    name: ConfigurationName,
    networks: Sequence[UNet],
    device: str,
    *,
    mirror: bool = True,
    adapted: Adapter | None = None,
) -> Predictor:
    """The predictor of one configuration, its networks moved to a device.

    Args:
        plan: how the networks are used.
        name: of the configuration.
        networks: one for each fold.
        device: where to.
        mirror: test-time mirroring.
        adapted: `voxfit.inference.backends.adapt` with its options; None: PyTorch, the same bits every time.
    """
    configuration, inference = plan.configurations[name], plan.inference
    axes = (0, 1, 2) if inference.mirror_axes is None else inference.mirror_axes
    placed = [network.to(device).eval() for network in networks]
    return Predictor(
        adapted(placed, plan.topology(name), configuration.patch_size, device=device) if adapted else placed,
        configuration.patch_box,
        slice_axis=configuration.slice_axis,
        outputs=plan.labels.outputs,
        activation=None if inference.averages == "logits" else "sigmoid" if plan.labels.regions else "softmax",
        device=device,
        mirror_axes=axes if mirror else (),
        tile_weights=inference.tile_weights,
    )


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

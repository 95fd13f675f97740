"""The self-contained model: a folder that predicts without any training code and without pickle.

`model.json` says everything (plan, members, scores); `weights/*.safetensors` are the networks. Move it anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, overload

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from voxfit.core.errors import DatasetError, Problem
from voxfit.core.memory import return_freed_memory, used_bytes
from voxfit.core.progress import Listener
from voxfit.core.records import digest_of
from voxfit.imaging.files import Case
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.places import placing_problem
from voxfit.imaging.verification import read_case_image
from voxfit.imaging.volume import Volume, read_geometry
from voxfit.imaging.writing import to_sitk
from voxfit.inference.backends import BackendOptions, parse_backend, require_int8
from voxfit.inference.cascade import upsampled
from voxfit.inference.caveats import NO_FOREGROUND, caveats_of
from voxfit.inference.device import choose_device
from voxfit.inference.given import volume_of
from voxfit.inference.int8_json import open_quantization
from voxfit.inference.memory_estimate import bytes_beside_outputs, estimate_memory
from voxfit.inference.model_json import ModelDescription, model_folder
from voxfit.inference.postprocessing import segment, to_values
from voxfit.inference.predictor import NetworkInput, Predictor
from voxfit.planning.grid import Grid
from voxfit.planning.plan import ConfigurationName
from voxfit.preprocessing.case import PreparedCase, prepare
from voxfit.preprocessing.reverting import Part

_GIVEN = "image"
"""Stands in problems for an image that has no file."""


@dataclass(frozen=True)
class ReadyCase:
    """A case that is prepared for a model.

    Attributes:
        geometry: of the image.
        prepared: on each of the model's grids.
        volume: the image, where a second stage prepares it again with the segmentation of the first.
        caveats: what speaks against trusting its segmentation, a sentence each.
    """

    geometry: Geometry
    prepared: dict[Grid, PreparedCase]
    volume: Volume | None
    caveats: tuple[str, ...] = ()

    @property
    def is_turned(self) -> bool:
        """Whether the image's axes point elsewhere than those of the training images."""
        return any(case.placement.turn for case in self.prepared.values())


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
        fast: bool = False,
        max_memory: int | None = None,
        execution: BackendOptions | None = None,
    ) -> None:
        self.description = description
        self.plan = description.plan
        self.max_memory = max_memory
        if max_memory is not None:
            return_freed_memory()
        wanted = description.fast_members() if fast else (*description.stages, *description.members)
        first = {member.configuration for member in description.stages}
        self.members = tuple(member.configuration for member in wanted if member.configuration not in first)
        execution = execution or BackendOptions()
        self.listener = execution.listener
        # What determines label maps beside the images.
        described = digest_of(description.model_dump(mode="json", exclude={"trained_on"}))
        self.identity = digest_of([described, mirror, fast, execution.ranges is not None])
        self.predictors: dict[ConfigurationName, Predictor] = {
            member.configuration: execution.predictor(
                self.plan, member, folder, device, mirror=mirror and not fast, memory=max_memory
            )
            for member in wanted
        }

    @staticmethod
    def open(
        path: str | Path,
        device: Literal["auto", "cpu", "cuda", "mps"] | str = "auto",
        *,
        mirror: bool = True,
        fast: bool = False,
        max_memory: int | None = None,
        backend: str = "auto",
        precision: Literal["float32", "int8"] = "float32",
        accept_loss: bool = False,
        listener: Listener | None = None,
    ) -> Model:
        """Open a model folder, or the model of a run folder.

        Args:
            path: a folder with `model.json`, or a run folder with `model/`.
            device: where to compute; "auto" takes a GPU if there is one.
            mirror: test-time mirroring [I2]; without it, prediction is 4 (2D) or 8 (3D) times faster.
            fast: one configuration, one fold, no mirroring; `ModelDescription.fast` says what that costs.
            max_memory: bytes that this process may use, while it segments an image; None for no limit.
            backend: what runs the networks, of `voxfit.inference.backends.BACKENDS`; "auto" finds the fastest while it
                predicts, and keeps the choice.
            precision: "int8" for the form that `voxfit quantize` makes: on CPUs only, by OpenVINO.
            accept_loss: take INT8 even where it loses `voxfit.inference.int8_json.MOST_LOSS` or more.
            listener: hears of a backend that fails here, and of images unlike those of the training.

        Raises:
            ModelError: it is no model, a file of it is missing or damaged, or there is no INT8 form.
            UsageError: device, backend or precision are not to be had here, or INT8 loses too much.
        """
        chosen, ranges = parse_backend(backend), None
        folder, description = model_folder(path)
        device = choose_device(device)
        if precision == "int8":
            require_int8("--precision int8", chosen, device, description.plan.network)
            ranges = open_quantization(folder, accept_loss=accept_loss)
        execution = BackendOptions(chosen, ranges, listener or Listener())
        return Model(folder, description, device, mirror=mirror, fast=fast, max_memory=max_memory, execution=execution)

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
            spacing_mm: of an array's spatial axes, in their order. These are those of the training images: an array
                does not say where its axes point.

        Returns:
            The label map with the values of the training labels: an image with the same geometry, or an array of the
            spatial shape. What the listener of `open` is warned of speaks against trusting it.

        Raises:
            UsageError: it is neither, or the spacing does not go with it.
            DatasetError: it holds NaN or infinity, or has not the channels or axes of the training images.
            MemoryLimitError: the memory limit is too low.
        """
        volume = volume_of(image, spacing_mm)
        label = self._segment_and_warn(self.prepare(volume))
        if isinstance(image, sitk.Image):
            return to_sitk(label, volume.geometry)
        return label.reshape(label.shape[-len(spacing_mm or ()) :])

    def predict_case(self, case: Case) -> tuple[NDArray[np.generic], Geometry]:
        """Read the files of a case and segment it.

        Returns:
            (z, y, x) label values and the geometry to write them with.

        Raises:
            DatasetError: a file is unusable.
            MemoryLimitError: the memory limit is too low.
        """
        ready = self.read(case)
        return self._segment_and_warn(ready), ready.geometry

    def predict_volume(self, volume: Volume) -> NDArray[np.generic]:
        """Segment a (channel, z, y, x) volume; returns (z, y, x) label values."""
        return self.segment(self.prepare(volume))

    def read(self, case: Case) -> ReadyCase:
        """Read the files of a case and prepare it; the first half of `predict_case`.

        Raises:
            DatasetError: a file is unusable.
            MemoryLimitError: the memory limit is too low; known from the header, before voxels are read.
        """
        if self.max_memory is not None:
            self.estimate(read_geometry(Path(case.images[0])))
        try:
            ready = self.prepare(read_case_image(case))
        except DatasetError as error:  # which may know no file
            named = [replace(item, where=case.images[0]) if item.where == _GIVEN else item for item in error.problems]
            raise DatasetError(named) from None
        doubt = placing_problem(Path(case.images[0]))
        return replace(ready, caveats=(*ready.caveats, f"{doubt.what} {doubt.remedy}")) if doubt else ready

    def prepare(self, volume: Volume) -> ReadyCase:
        """Prepare a volume for every network.

        Raises:
            DatasetError: it has not the channels, or the dimension, that the model was trained on.
        """
        names = self.plan.channel_names
        if len(volume.array) != len(names):
            has, needs = (f"{count} channel{'s' * (count != 1)}" for count in (len(volume.array), len(names)))
            what = f"the image has {has}, but the model was trained on {needs}: {', '.join(names)}."
            raise DatasetError(Problem(_GIVEN, what, "Give all of them in this order, and no others."))
        if volume.geometry.dimension == 2 and any(item.dimension == 3 for item in self.plan.configurations.values()):
            what = "the image is 2D, but the model was trained on 3D images."
            raise DatasetError(Problem(_GIVEN, what, "Give the volume as one file, or as one array of three axes."))
        later = self._prepared_later()
        # Models with a common grid share what is prepared.
        grids = {self.plan.grid(name) for name in self.predictors if name not in later}
        prepared = {grid: prepare(volume, grid) for grid in grids}
        seen = next(iter(prepared.values())).image
        caveats = caveats_of(volume, seen, self.plan, self.description.trained_on)
        return ReadyCase(volume.geometry, prepared, volume if later else None, caveats)

    def segment(self, ready: ReadyCase) -> NDArray[np.generic]:
        """Segment a prepared case; the second half of `predict_case`.

        Returns:
            (z, y, x) label values.

        Raises:
            MemoryLimitError: the memory limit is too low.
        """
        parts = [self._part(name, ready) for name in self.members]
        memory = self._memory_left(ready)
        return to_values(segment(parts, self.plan, memory), self.plan.labels.values)

    def _segment_and_warn(self, ready: ReadyCase) -> NDArray[np.generic]:
        """Segment, and warn the listener of what speaks against trusting it."""
        for caveat in ready.caveats:
            self.listener.warn(caveat)
        label = self.segment(ready)
        if not label.any():
            self.listener.warn(NO_FOREGROUND)
        return label

    def estimate(self, geometry: Geometry, *, is_read: bool = False) -> int:
        """Memory, in bytes, that this process will hold at most while it segments an image of this grid, about.

        Args:
            geometry: of the image.
            is_read: the image is already in memory, prepared.

        Raises:
            MemoryLimitError: the limit cannot be kept.
        """
        first = {name: predictor for name, predictor in self.predictors.items() if name not in self.members}
        last = {name: self.predictors[name] for name in self.members}
        return estimate_memory(self.plan, (first, last), geometry, self.max_memory, is_read=is_read)

    def _prepared_later(self) -> list[ConfigurationName]:
        """The second stages that are prepared together with the segmentation of the first."""
        if self.plan.inference.cascade_input != "segmentation":
            return []
        return [name for name in self.predictors if self.plan.configurations[name].previous]

    def _part(self, name: ConfigurationName, ready: ReadyCase) -> Part:
        """What one configuration says, after its previous stage where it has one."""
        grid, previous = self.plan.grid(name), self.plan.configurations[name].previous
        if previous is None:
            case = ready.prepared[grid]
            return self.predictors[name].source(case.image), case.placement
        coarse = ready.prepared[self.plan.grid(previous)]
        source = self.predictors[previous].source(coarse.image)
        memory = self._memory_left(ready)
        if ready.volume is not None:
            label = segment([(source, coarse.placement)], self.plan, memory).astype(np.int16)
            case = prepare(ready.volume, grid, label)
            segmentation = case.label
        else:
            case = ready.prepared[grid]
            segmentation = upsampled(source, case.image.shape[1:], self.plan, name, memory)
        seen = NetworkInput(case.image, segmentation, self.plan.labels.count - 1)
        return self.predictors[name].source(seen), case.placement

    def _memory_left(self, ready: ReadyCase) -> int | None:
        """What outputs may take of the memory limit, now that the case is there."""
        if self.max_memory is None:
            return None
        held = used_bytes() + bytes_beside_outputs(self.plan, self.predictors, ready.geometry)
        return max(self.max_memory - held, 0)

"""Which patches a training step sees: drawn from counters, so that step 7 of epoch 3 is the same on every run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from voxfit.core.extensions import extension
from voxfit.imaging.geometry import Box, cut
from voxfit.imaging.labels import Labels
from voxfit.learning.augmentation import augment, draw_parameters, list_transforms
from voxfit.learning.locations import PatchLocations
from voxfit.learning.previous_stage import corrupt_segmentation
from voxfit.learning.randomness import RandomStreams
from voxfit.learning.spatial import Spatial, draw_spatial
from voxfit.learning.warping import warp
from voxfit.planning.plan import Configuration
from voxfit.planning.recipes import Recipe
from voxfit.preprocessing.case import OUTSIDE
from voxfit.preprocessing.store import Store

TRAINING, VALIDATION = 0, 1
"""Streams of random numbers."""


@dataclass(frozen=True)
class Sample:
    """One patch before augmentation.

    Attributes:
        case: its name.
        image: (channel, *box) float32.
        label: (layer, *box) int16 class indices; the second layer, if any, is the previous stage's segmentation.
        spatial: where the voxels of the augmented patch come from.
        drawn: the parameters of other augmentations, by name.
    """

    case: str
    image: torch.Tensor
    label: torch.Tensor
    spatial: Spatial
    drawn: Mapping[str, Any]


class PatchError(Exception):
    """Patches of some cases could not be made.

    Attributes:
        cases: their names.
        reason: what was raised.
    """

    def __init__(self, cases: Sequence[str], reason: Exception) -> None:
        self.cases, self.reason = tuple(cases), reason
        super().__init__(f"{', '.join(cases)}: {reason}")


class Patches(Protocol):
    """Where patches are cut from."""

    def cut(self, name: str, box: Box) -> tuple[torch.Tensor, torch.Tensor]:
        """A box of a case: (channel, *box) image, zeros beyond it, and (*box) int16 label, `OUTSIDE` beyond it."""


class StoredPatches:
    """Patches cut from memory-mapped files: only the box is read."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def cut(self, name: str, box: Box) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Patches`."""
        label = cut(self.store.label(name), box, OUTSIDE).astype(np.int16)
        return torch.from_numpy(cut(self.store.image(name), box)), torch.from_numpy(label)


@dataclass(frozen=True)
class Previous:
    """The previous stage of a cascade.

    Attributes:
        segmentation: takes a case's name, returns (z, y, x) class indices on this stage's grid, out of fold.
        classes: foreground classes.
    """

    segmentation: Callable[[str], NDArray[np.int16]]
    classes: int


class PatchSampler:
    """Draws the batches of one configuration from a store (method.md [T5], [T6], [T8]).

    Args:
        store: the prepared cases; from it come the places of patches.
        cases: names, those to draw from.
        configuration, recipe, labels: all settings.
        channels: of the images.
        seed: of everything drawn.
        masked_channels: those normalised inside the nonzero mask.
        previous: the stage before, where there is one.
        patches: where voxels come from; None for the store.
    """

    def __init__(
        self,
        store: Store,
        cases: Sequence[str],
        configuration: Configuration,
        recipe: Recipe,
        *,
        labels: Labels,
        channels: int,
        seed: int,
        masked_channels: Sequence[int] = (),
        previous: Previous | None = None,
        patches: Patches | None = None,
    ) -> None:
        self.store = store
        self.patches = patches or StoredPatches(store)
        self.cases = tuple(cases)
        self.configuration = configuration
        self.seed = seed
        self.previous = previous
        self.labels = labels
        self.locations = PatchLocations(store, labels, configuration.patch_box)
        self.previous_stage_augmentation = recipe.previous_stage_augmentation
        self.channels = channels
        flat = configuration.augmentation == "2d_slices"
        # The axis (of z, y, x) that the transformation leaves alone: slices, or the short axis of a stretched patch.
        self.through_plane_axis = int(np.argmin(configuration.patch_size)) if flat else configuration.slice_axis
        planar = flat or configuration.dimension == 2
        self.settings = recipe.augmentation_2d if planar else recipe.augmentation_3d
        if flat and recipe.augmentation_slices:
            self.settings = recipe.augmentation_slices
        self.in_plane_patch = tuple(
            size for axis, size in enumerate(configuration.patch_box) if axis != self.through_plane_axis
        )
        self.transforms = list_transforms(
            self.settings,
            channels=channels,
            mirror_axes=configuration.dimension,
            through_plane_axis=self.through_plane_axis if configuration.dimension == 3 else None,
            masked_channels=masked_channels,
            added={name: extension("augmentation", name) for name in recipe.augmentations},
        )
        # More than a third of the samples are centred on a foreground voxel [T8]; nnU-Net v2 rounds 0.67 of a batch.
        size = configuration.batch_size
        above = recipe.foreground_oversampling == "above_third"
        self.num_foreground_patches = size // 3 + 1 if above else size - round(size * 0.67)

    def batch(self, stream: int, epoch: int, step: int) -> list[Sample]:
        """The samples of one step; the last ones are centred on a foreground voxel.

        Raises:
            PatchError: naming the case of which one could not be made.
        """
        size = self.configuration.batch_size
        return [
            self._sample(
                (self.seed, stream, epoch, step, number),
                on_foreground=number >= size - self.num_foreground_patches,
                augmented=stream == TRAINING,
            )
            for number in range(size)
        ]

    def finish(self, samples: Sequence[Sample], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Augment a batch on a device.

        Args:
            samples: of `batch`.
            device: where to.

        Returns:
            images (batch, channel, *patch) and labels (batch, *patch).
        """
        images = [self._flatten(_send(sample.image, device)) for sample in samples]
        labels = [self._flatten(_send(sample.label, device)) for sample in samples]
        image, label = warp(images, labels, [sample.spatial for sample in samples], self.in_plane_patch)
        image, label = self._unflatten(image, self.channels), self._unflatten(label, len(samples[0].label))
        image, label = augment(self.transforms, image, label, [sample.drawn for sample in samples])
        if self.previous:
            one_hot = [label[:, 1] == index for index in range(1, self.previous.classes + 1)]
            image = torch.cat([image, torch.stack(one_hot, dim=1).to(image.dtype)], dim=1)
        return image, label[:, 0]

    def _sample(self, counters: tuple[int, ...], *, on_foreground: bool, augmented: bool) -> Sample:
        streams = RandomStreams(counters)
        name = self.cases[streams.of("case").integers(len(self.cases))]
        try:
            return self._sample_of(name, streams, on_foreground=on_foreground, augmented=augmented)
        except Exception as error:  # whatever a damaged file or a library raises
            raise PatchError([name], error) from error

    def _sample_of(self, name: str, streams: RandomStreams, *, on_foreground: bool, augmented: bool) -> Sample:
        patch = self.locations.place(streams.of("place"), name, self.store.label(name), on_foreground=on_foreground)
        spatial = draw_spatial(streams, self.settings, self.in_plane_patch) if augmented else Spatial()
        box = self._source(spatial, patch)
        image, label = self.patches.cut(name, box)
        layers = [label]
        if self.previous:
            before = cut(self.previous.segmentation(name), box).astype(np.int16)
            if augmented:
                before = corrupt_segmentation(
                    streams.of("previous_stage"),
                    before,
                    self.previous.classes,
                    self.previous_stage_augmentation,
                    math.prod(self.configuration.patch_box),
                )
            layers.append(torch.from_numpy(before).to(label.device))
        drawn = draw_parameters(self.transforms, streams) if augmented else {}
        return Sample(name, image, torch.stack(layers), spatial, drawn)

    def _source(self, spatial: Spatial, patch: Box) -> Box:
        """The box that the spatial augmentation needs: along the through-plane axis, just the patch."""
        axis = self.through_plane_axis
        if axis is None:
            return spatial.source_box(patch)

        def rest(values: tuple[int, ...]) -> tuple[int, ...]:
            return values[:axis] + values[axis + 1 :]

        moved = spatial.source_box(Box(rest(patch.start), rest(patch.stop)))
        return Box(
            (*moved.start[:axis], patch.start[axis], *moved.start[axis:]),
            (*moved.stop[:axis], patch.stop[axis], *moved.stop[axis:]),
        )

    def _flatten(self, tensor: torch.Tensor) -> torch.Tensor:
        """(channel, z, y, x) to (channel x through-plane axis, in-plane axes)."""
        if self.through_plane_axis is None:
            return tensor
        return tensor.movedim(self.through_plane_axis + 1, 1).flatten(0, 1)

    def _unflatten(self, tensor: torch.Tensor, channels: int) -> torch.Tensor:
        """(batch, channel x through-plane axis, in-plane axes) back to (batch, channel, *patch)."""
        if self.through_plane_axis is None:
            return tensor
        planes: torch.Tensor = tensor.unflatten(1, (channels, -1))
        return planes[:, :, 0] if self.configuration.dimension == 2 else planes.movedim(2, self.through_plane_axis + 2)


def _send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on a device; a GPU copies from pinned memory while the host goes on."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)

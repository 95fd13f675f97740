"""Which patches a training step sees: drawn from counters, so that step 7 of epoch 3 is the same on every run."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import EllipsisType
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from voxfit.core.extensions import extension
from voxfit.imaging.geometry import Box, cut
from voxfit.imaging.labels import Labels
from voxfit.learning.augmentation import Augmentation, adjust_gamma, draw, mirror
from voxfit.learning.intensity import adjust_intensity, clear_outside
from voxfit.learning.locations import PatchLocations
from voxfit.learning.previous_stage import corrupt_segmentation
from voxfit.learning.warping import transform
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
        augmentation: what is done to it.
        counters: those that it was drawn by; augmentations of other packages have children of their own of them.
    """

    case: str
    image: torch.Tensor
    label: torch.Tensor
    augmentation: Augmentation
    counters: tuple[int, ...] = ()


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


class FurtherAugmentation(Protocol):
    """An augmentation of another package."""

    def __call__(
        self, image: torch.Tensor, label: torch.Tensor, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Change one sample, whose shapes stay.

        Args:
            image: (channel, *patch) normalised intensities.
            label: (layer, *patch) int16 class indices; a second layer is what the stage before a cascade's says.
            rng: of this sample and this augmentation alone.
        """


class PatchSampler:
    """Draws the batches of one configuration from a store (method.md [T5], [T6], [T8]).

    Args:
        store: the prepared cases; from it come the places of patches.
        cases: names, those to draw from.
        configuration, recipe, labels: all settings.
        channels: of the images.
        seed: of everything drawn.
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
        self.places = PatchLocations(store, labels, configuration.patch_box)
        self.previous_stage_augmentation = recipe.previous_stage_augmentation
        self.further: dict[str, FurtherAugmentation] = {
            name: extension("augmentation", name) for name in recipe.augmentations
        }
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

    def finish(
        self, samples: Sequence[Sample], device: torch.device, masked_channels: Sequence[int] = ()
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Augment a batch on a device.

        Args:
            samples: of `batch`.
            device: where to.
            masked_channels: those normalised inside the nonzero mask; a set with `intensity` keeps them 0 beyond it.

        Returns:
            images (batch, channel, *patch) and labels (batch, *patch).
        """
        draws = [sample.augmentation for sample in samples]
        images = [self._flatten(_send(sample.image, device)) for sample in samples]
        labels = [self._flatten(_send(sample.label, device)) for sample in samples]
        image, label = transform(images, labels, draws, self.in_plane_patch)
        image, label = self._unflatten(image, self.channels), self._unflatten(label, len(samples[0].label))
        changes = [item.intensity for item in draws]
        image = adjust_intensity(image, changes, self.through_plane_axis if image.ndim == 5 else None)
        if draws[0].mirrored:
            image, label = mirror(image, draws, 2), mirror(label, draws, 2)
        image = clear_outside(adjust_gamma(image, draws), label[:, 0], changes, masked_channels)
        image, label = self._augment_further(image, label, samples)
        if self.previous:
            one_hot = [label[:, 1] == index for index in range(1, self.previous.classes + 1)]
            image = torch.cat([image, torch.stack(one_hot, dim=1).to(image.dtype)], dim=1)
        return image, label[:, 0]

    def _augment_further(
        self, image: torch.Tensor, label: torch.Tensor, samples: Sequence[Sample]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What other packages do, sample by sample, each by random numbers that depend on nothing else."""
        for name, change in self.further.items():
            pairs = [
                change(image[index], label[index], np.random.default_rng((*sample.counters, zlib.crc32(name.encode()))))
                if sample.counters
                else (image[index], label[index])
                for index, sample in enumerate(samples)
            ]
            image, label = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        return image, label

    def _sample(self, counters: tuple[int, ...], *, on_foreground: bool, augmented: bool) -> Sample:
        rng = np.random.default_rng(counters)
        name = self.cases[rng.integers(len(self.cases))]
        try:
            sample = self._sample_of(name, rng, on_foreground=on_foreground, augmented=augmented)
            return replace(sample, counters=counters) if augmented else sample
        except Exception as error:  # whatever a damaged file or a library raises
            raise PatchError([name], error) from error

    def _sample_of(self, name: str, rng: np.random.Generator, *, on_foreground: bool, augmented: bool) -> Sample:
        patch = self.places.place(rng, name, self.store.label(name), on_foreground=on_foreground)
        augmentation = Augmentation()
        if augmented:
            augmentation = draw(rng, self.settings, self.in_plane_patch, self.configuration.dimension, self.channels)
        box = self._source(augmentation, patch)
        image, label = self.patches.cut(name, box)
        layers = [label]
        if self.previous:
            before = cut(self.previous.segmentation(name), box).astype(np.int16)
            if augmented:
                voxels = math.prod(self.configuration.patch_box)
                before = corrupt_segmentation(
                    rng, before, self.previous.classes, self.previous_stage_augmentation, voxels
                )
            layers.append(torch.from_numpy(before).to(label.device))
        return Sample(name, image, torch.stack(layers), augmentation)

    def _source(self, augmentation: Augmentation, patch: Box) -> Box:
        """The box that the augmentation needs: on the axis that stays still, just the patch."""
        still = self.through_plane_axis
        if still is None:
            return augmentation.source_box(patch)

        def rest(values: tuple[int, ...]) -> tuple[int, ...]:
            return values[:still] + values[still + 1 :]

        moved = augmentation.source_box(Box(rest(patch.start), rest(patch.stop)))
        return Box(
            (*moved.start[:still], patch.start[still], *moved.start[still:]),
            (*moved.stop[:still], patch.stop[still], *moved.stop[still:]),
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


def cut_tensor(values: torch.Tensor, box: Box, fill: float) -> torch.Tensor:
    """Copy a box out of the last three axes of a tensor; what lies outside of it becomes `fill`."""
    result = values.new_full((*values.shape[:-3], *box.shape), fill)
    source: list[slice] = []
    target: list[slice] = []
    for start, stop, size in zip(box.start, box.stop, values.shape[-3:], strict=True):
        low, high = min(max(start, 0), size), max(min(stop, size), 0)
        source.append(slice(low, max(high, low)))
        target.append(slice(low - start, max(high, low) - start))
    there: tuple[EllipsisType | slice, ...] = (..., *target)
    here: tuple[EllipsisType | slice, ...] = (..., *source)
    result[there] = values[here]
    return result


def _send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on a device; a GPU copies from pinned memory while the host goes on."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)

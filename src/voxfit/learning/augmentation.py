"""Augmentation in two halves: drawing parameters and applying them, in batches (method.md [T5]).

Rotation, scaling and elastic deformation are one resampling of exactly the voxels that the patch needs. Images are
interpolated linearly, because `grid_sample` does that on every device in two and three dimensions, and cubic only in
two. Labels take the nearest voxel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from voxfit.imaging.geometry import Box
from voxfit.learning.intensity import Intensity, about_one, bend, draw_intensity
from voxfit.planning.recipe import AugmentationSet

_ELASTIC_REACH = 5.0
"""Displacements beyond this many standard deviations are clipped, so that the needed box is known beforehand."""


@dataclass(frozen=True)
class Elastic:
    """A smooth random displacement: uniform noise in [-1, 1], smoothed by a Gaussian, multiplied.

    Attributes:
        amplitude: the factor, voxels.
        sigma: of the Gaussian, voxels.
        noise: (axis, *patch) float32.
    """

    amplitude: float
    sigma: float
    noise: NDArray[np.float32]

    @property
    def reach(self) -> int:
        """Displacements are at most this long along an axis, voxels."""
        axes = len(self.noise)
        deviation = self.amplitude / math.sqrt(3) / math.pow(2 * math.sqrt(math.pi) * self.sigma, axes / 2)
        return math.ceil(_ELASTIC_REACH * deviation)


@dataclass(frozen=True)
class Augmentation:
    """What is done to one sample. Axes are those of the plane or volume that is transformed.

    Attributes:
        matrix: takes offsets from the patch's centre to offsets in the image; None for the identity.
        elastic: added displacement; None for none.
        mirrored: axes to flip.
        gamma: exponent for each channel; None for none.
        intensity: further changes of intensity; None for none.
    """

    matrix: NDArray[np.float64] | None = None
    elastic: Elastic | None = None
    mirrored: tuple[bool, ...] = ()
    gamma: tuple[float, ...] | None = None
    intensity: Intensity | None = None

    @property
    def moves(self) -> bool:
        """Whether voxels must be interpolated."""
        return self.matrix is not None or self.elastic is not None

    def source_box(self, patch: Box) -> Box:
        """The voxels that are needed to fill a patch, interpolation included."""
        if not self.moves:
            return patch
        size = np.asarray(patch.shape)
        centre = np.asarray(patch.start) + (size - 1) / 2
        matrix = np.eye(len(size)) if self.matrix is None else self.matrix
        reach = np.abs(matrix) @ ((size - 1) / 2) + (self.elastic.reach if self.elastic else 0)
        low = np.floor(centre - reach - 1e-6).astype(int)
        high = np.ceil(centre + reach + 1e-6).astype(int) + 1
        return Box(tuple(low.tolist()), tuple(high.tolist()))


def draw(
    rng: np.random.Generator, settings: AugmentationSet, patch: Sequence[int], mirror_axes: int, channels: int
) -> Augmentation:
    """Draw the parameters of one sample.

    Args:
        rng: of this sample alone.
        settings: ranges and probabilities.
        patch: 2 or 3 edges of what is transformed.
        mirror_axes: how many axes may be flipped.
        channels: image channels.
    """
    stretched = max(patch) > 1.5 * min(patch)
    matrix = None
    if rng.random() < settings.rotation_probability:
        largest = settings.stretched_rotation_degrees if stretched else settings.rotation_degrees
        matrix = rotation(np.deg2rad(rng.uniform(-largest, largest, 3 if len(patch) == 3 else 1)))
    if rng.random() < settings.scale_probability:
        matrix = (np.eye(len(patch)) if matrix is None else matrix) * about_one(rng, settings.scale)
    elastic = None
    if rng.random() < settings.elastic_probability:
        amplitude, sigma = rng.uniform(*settings.elastic_amplitude), rng.uniform(*settings.elastic_sigma)
        noise = rng.random((len(patch), *patch), dtype=np.float32) * 2 - 1
        elastic = Elastic(float(amplitude), float(sigma), noise)
    gamma = None
    if rng.random() < settings.gamma_probability:
        gamma = tuple(about_one(rng, settings.gamma) for _ in range(channels))
    mirrored = tuple(bool(flip) for flip in rng.random(mirror_axes) < settings.mirror_probability)
    # Last, so that what a seed draws without this part stays what it was.
    intensity = draw_intensity(rng, settings.intensity, channels) if settings.intensity else None
    return Augmentation(matrix, elastic, mirrored, gamma, intensity)


def rotation(radians: NDArray[np.float64]) -> NDArray[np.float64]:
    """A rotation matrix: of the plane by one angle, or about the three axes one after another."""
    if len(radians) == 1:
        cosine, sine = math.cos(radians[0]), math.sin(radians[0])
        return np.array([[cosine, -sine], [sine, cosine]])
    result = np.eye(3)
    for axis, angle in enumerate(radians):
        single = np.eye(3)
        plane = [other for other in range(3) if other != axis]
        single[np.ix_(plane, plane)] = rotation(np.array([angle]))
        result = result @ single
    return result


def transform(
    images: Sequence[torch.Tensor], labels: Sequence[torch.Tensor], draws: Sequence[Augmentation], patch: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply the geometric half (without mirroring) to a batch.

    Args:
        images: one (channel, *box) for each sample, cut at `draw.source_box`; boxes may differ.
        labels: one (layer, *box) for each sample.
        draws: the parameters.
        patch: the edges of the result.

    Returns:
        (batch, channel, *patch) images and (batch, layer, *patch) labels.
    """
    moving = [index for index, item in enumerate(draws) if item.moves]
    image = images[0].new_empty((len(images), images[0].shape[0], *patch))
    label = labels[0].new_empty((len(labels), labels[0].shape[0], *patch))
    for index, item in enumerate(draws):
        if not item.moves:
            image[index], label[index] = images[index], labels[index]
    if moving:
        chosen = torch.tensor(moving, device=image.device)
        sources = _stack([images[index] for index in moving])
        grid = _sampling_grid([draws[index] for index in moving], [images[index] for index in moving], sources, patch)
        image[chosen] = functional.grid_sample(sources, grid, mode="bilinear", align_corners=False)
        nearest = functional.grid_sample(
            _stack([labels[index] for index in moving]).float(), grid, mode="nearest", align_corners=False
        )
        label[chosen] = nearest.to(label.dtype)
    return image, label


def mirror(tensor: torch.Tensor, draws: Sequence[Augmentation], first_axis: int) -> torch.Tensor:
    """Flip each sample of (batch, ...) along its drawn axes, the first of which is `first_axis`; in place."""
    for offset in range(len(draws[0].mirrored)):
        chosen = [index for index, item in enumerate(draws) if item.mirrored[offset]]
        if chosen:
            where = torch.tensor(chosen, device=tensor.device)
            tensor[where] = tensor[where].flip(first_axis + offset)
    return tensor


def adjust_gamma(image: torch.Tensor, draws: Sequence[Augmentation]) -> torch.Tensor:
    """Gamma correction of (batch, channel, *patch) with mean and deviation of each channel retained; in place."""
    chosen = [index for index, item in enumerate(draws) if item.gamma]
    if not chosen:
        return image
    where = torch.tensor(chosen, device=image.device)
    part = image[where].flatten(2)
    exponent = torch.tensor([draws[index].gamma for index in chosen], device=image.device, dtype=image.dtype)[..., None]
    image[where] = bend(part, exponent).unflatten(2, image.shape[2:])
    return image


def _stack(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack tensors of different boxes, zeros behind the smaller ones (as beyond the image)."""
    shape = [max(sizes) for sizes in zip(*(tensor.shape for tensor in tensors), strict=True)]
    result = tensors[0].new_zeros((len(tensors), *shape))
    for index, tensor in enumerate(tensors):
        inside: Any = (index, *(slice(size) for size in tensor.shape))
        result[inside] = tensor
    return result


def _sampling_grid(
    draws: Sequence[Augmentation], boxes: Sequence[torch.Tensor], sources: torch.Tensor, patch: Sequence[int]
) -> torch.Tensor:
    """The (batch, *patch, axis) grid of `grid_sample`: where in its source each voxel of the patch comes from."""
    axes = len(patch)
    device = sources.device
    steps = [torch.arange(size, device=device, dtype=torch.float32) - (size - 1) / 2 for size in patch]
    offsets = torch.stack(torch.meshgrid(*steps, indexing="ij")).flatten(1)
    sizes = torch.tensor(sources.shape[2:], device=device, dtype=torch.float32)[:, None]
    grids = []
    for item, box in zip(draws, boxes, strict=True):
        where = offsets
        if item.matrix is not None:
            where = torch.tensor(item.matrix, device=device, dtype=torch.float32) @ offsets
        if item.elastic is not None:
            where = where + _displacement(item.elastic, device).flatten(1)
        # Boxes are symmetric about the patch's centre, so their own centre is where it lies.
        centre = torch.tensor([(size - 1) / 2 for size in box.shape[-axes:]], device=device)[:, None]
        grids.append(((2 * (where + centre) + 1) / sizes - 1).flip(0).T.reshape(*patch, axes))
    return torch.stack(grids)


def _displacement(elastic: Elastic, device: torch.device) -> torch.Tensor:
    """(axis, *patch) displacements in voxels: noise smoothed along each axis by a banded matrix, zeros beyond."""
    field = torch.from_numpy(elastic.noise).to(device)
    for axis in range(1, field.ndim):
        size = field.shape[axis]
        position = torch.arange(size, device=device, dtype=torch.float32)
        kernel = torch.exp(-0.5 * ((position[:, None] - position) / elastic.sigma) ** 2)
        kernel = kernel / (elastic.sigma * math.sqrt(2 * math.pi))
        field = torch.tensordot(field, kernel, dims=([axis], [0])).movedim(-1, axis)
    return (field * elastic.amplitude).clamp(-elastic.reach, elastic.reach)

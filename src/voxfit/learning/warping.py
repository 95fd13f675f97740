"""Applying the spatial augmentation (method.md [T5]).

Rotation, scaling and elastic deformation are one resampling of exactly the voxels that the patch needs. Images are
interpolated linearly, because `grid_sample` does that on every device in two and three dimensions, and cubic only in
two. Labels take the nearest voxel. Torch's `grid_sample` for volumes is slow on CPUs (one voxel after another), so
there volumes are interpolated by gathering their neighbours, with the same result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from voxfit.learning.row_operations import along_axes, column
from voxfit.learning.spatial import Elastic, Spatial

_SLAB = 1 << 16
"""Volumes are resampled in slabs of about this many voxels: what is computed for one stays in a core's cache."""


def warp(
    images: Sequence[torch.Tensor], labels: Sequence[torch.Tensor], draws: Sequence[Spatial], patch: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply the spatial augmentation to a batch.

    Args:
        images: one (channel, *box) for each sample, cut at `draw.source_box`; boxes may differ.
        labels: one (layer, *box) for each sample.
        draws: the parameters.
        patch: the edges of the result.

    Returns:
        (batch, channel, *patch) images and (batch, layer, *patch) labels.
    """
    image = images[0].new_empty((len(images), images[0].shape[0], *patch))
    label = labels[0].new_empty((len(labels), labels[0].shape[0], *patch))
    by_gathering = len(patch) == 3 and image.device.type == "cpu"
    together = []
    for index, item in enumerate(draws):
        if not item.moves:
            image[index], label[index] = images[index], labels[index]
        elif by_gathering:
            gather(images[index], labels[index], item, image[index], label[index])
        else:
            together.append(index)
    if together:
        rows = torch.tensor(together, device=image.device)
        sources, layers = ([each[index] for index in together] for each in (images, labels))
        image[rows], label[rows] = sample_grid(sources, layers, [draws[index] for index in together], patch)
    return image, label


def sample_grid(
    images: Sequence[torch.Tensor], labels: Sequence[torch.Tensor], draws: Sequence[Spatial], patch: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Resample planes or volumes together by `grid_sample`; arguments and results are those of `warp`."""
    sources = _stack(images)
    grid = _sampling_grid(draws, images, sources, patch)
    image = functional.grid_sample(sources, grid, mode="bilinear", align_corners=False)
    nearest = functional.grid_sample(_stack(labels).float(), grid, mode="nearest", align_corners=False)
    return image, nearest.to(labels[0].dtype)


def gather(image: torch.Tensor, label: torch.Tensor, item: Spatial, moved: torch.Tensor, layers: torch.Tensor) -> None:
    """Resample one volume: eight neighbours are gathered and interpolated, labels take the nearest.

    Args:
        image: (channel, *box), cut at `item.source_box`.
        label: (layer, *box).
        item: the parameters.
        moved: gets (channel, *patch).
        layers: gets (layer, *patch).
    """
    patch, box = moved.shape[1:], image.shape[1:]
    displacement = _displacements([item.elastic], image.device)[0] if item.elastic else None
    thick = max(_SLAB // (patch[1] * patch[2]), 1)
    for first in range(0, patch[0], thick):
        slab = slice(first, min(first + thick, patch[0]))
        where = _coordinates(item, displacement, patch, box, slab)
        nearest = _linear_index([place.round().to(torch.int32) for place in where], box)
        for values, target in zip(label, layers, strict=True):
            torch.index_select(values.reshape(-1), 0, nearest, out=target[slab].view(-1))
        corner = [place.to(torch.int32).clamp_(max=size - 2) for place, size in zip(where, box, strict=True)]
        shares = [place.sub_(low).view(-1) for place, low in zip(where, corner, strict=True)]
        index = _linear_index(corner, box)
        for values, target in zip(image, moved, strict=True):
            _interpolate(values.reshape(-1), index, shares, (box[1] * box[2], box[2], 1), target[slab].view(-1))


def _coordinates(
    item: Spatial, displacement: torch.Tensor | None, patch: Sequence[int], box: Sequence[int], slab: slice
) -> list[torch.Tensor]:
    """Where in its box each voxel of a slab of the patch comes from: for z, y and x one (slab, y, x)."""
    matrix = np.eye(3) if item.matrix is None else item.matrix
    z, y, x = (torch.arange(size, dtype=torch.float32) - (size - 1) / 2 for size in patch)
    where = []
    for axis, size in enumerate(box):
        along_z, along_y, along_x = matrix[axis].tolist()
        # Boxes are symmetric about the patch's centre, so their own centre is where it lies.
        plane = (z[slab] * along_z + (size - 1) / 2)[:, None] + y * along_y
        place = plane[:, :, None] + x * along_x
        if displacement is not None:
            place += displacement[axis, slab]
        where.append(place.clamp_(0, size - 1))
    return where


def _linear_index(voxels: Sequence[torch.Tensor], box: Sequence[int]) -> torch.Tensor:
    """Positions in a flattened box of int32 indices z, y and x; the first tensor is used up."""
    return voxels[0].mul_(box[1]).add_(voxels[1]).mul_(box[2]).add_(voxels[2]).view(-1)


def _interpolate(
    values: torch.Tensor,
    index: torch.Tensor,
    shares: Sequence[torch.Tensor],
    strides: Sequence[int],
    target: torch.Tensor,
) -> None:
    """Linear interpolation between the neighbours of `index` along each axis, the first of which is the slowest."""

    def between(axis: int, offset: int) -> torch.Tensor:
        if axis == len(strides):
            return values[offset:].index_select(0, index)
        return between(axis + 1, offset).lerp_(between(axis + 1, offset + strides[axis]), shares[axis])

    target.copy_(between(0, 0))


def _stack(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack tensors of different boxes, zeros behind the smaller ones (as beyond the image)."""
    shape = [max(sizes) for sizes in zip(*(tensor.shape for tensor in tensors), strict=True)]
    result = tensors[0].new_zeros((len(tensors), *shape))
    for index, tensor in enumerate(tensors):
        inside: tuple[int | slice, ...] = (index, *(slice(size) for size in tensor.shape))
        result[inside] = tensor
    return result


def _sampling_grid(
    draws: Sequence[Spatial], boxes: Sequence[torch.Tensor], sources: torch.Tensor, patch: Sequence[int]
) -> torch.Tensor:
    """The (batch, *patch, axis) grid of `grid_sample`: where in its source each voxel of the patch comes from."""
    axes, device = len(patch), sources.device
    steps = [torch.arange(size, device=device, dtype=torch.float32) - (size - 1) / 2 for size in patch]
    offsets = torch.stack(torch.meshgrid(*steps, indexing="ij")).flatten(1)
    # All samples at once: on a GPU, kernel-launch overhead dominates for small patches.
    matrices = np.stack([np.eye(axes) if item.matrix is None else item.matrix for item in draws])
    where = torch.from_numpy(matrices.astype(np.float32)).to(device) @ offsets
    elastic = [(index, item.elastic) for index, item in enumerate(draws) if item.elastic]
    if elastic:
        rows = torch.tensor([index for index, _ in elastic], device=device)
        where[rows] += _displacements([item for _, item in elastic], device).flatten(2)
    # Boxes are symmetric about the patch's centre, so their own centre is where it lies.
    centres = torch.tensor([[(size - 1) / 2 for size in box.shape[-axes:]] for box in boxes], device=device)
    sizes = torch.tensor(sources.shape[2:], device=device, dtype=torch.float32)[:, None]
    grid = (2 * (where + centres[:, :, None]) + 1) / sizes - 1
    return grid.flip(1).movedim(1, -1).reshape(len(draws), *patch, axes)


def _displacements(elastic: Sequence[Elastic], device: torch.device) -> torch.Tensor:
    """(sample, axis, *patch) displacements in voxels: noise smoothed along each axis by a matrix, zeros beyond."""
    noise = np.stack([item.noise for item in elastic])
    axes, patch = noise.shape[1], noise.shape[2:]
    # The displacement along each axis is a row of its own.
    rows = torch.from_numpy(noise).to(device).flatten(0, 1)
    kernels = [np.repeat(np.stack([_gaussian(size, item.sigma) for item in elastic]), axes, axis=0) for size in patch]
    fields = along_axes(rows, kernels)
    amplitude = column([item.amplitude for item in elastic for _ in range(axes)], rows)
    reach = column([float(item.reach) for item in elastic for _ in range(axes)], rows)
    return fields.mul_(amplitude).clamp_(-reach, reach).view(noise.shape)


def _gaussian(size: int, sigma: float) -> NDArray[np.float32]:
    """The matrix of a Gaussian of unit integral along an axis."""
    position = np.arange(size)
    kernel = np.exp(-0.5 * ((position[:, None] - position) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    return kernel.astype(np.float32)

"""Sliding-window prediction: tiles, mirroring and folds, averaged as probabilities (method.md [I1]-[I3])."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from voxfit.imaging.geometry import Box, cut
from voxfit.inference.tiling import gaussian_weights, tiles

Network = Callable[[torch.Tensor], torch.Tensor]
"""Takes (batch, channel, *patch), returns (batch, output, *patch) logits."""

_BATCH_VOXELS = {"cuda": 2**22}
_BATCH_VOXELS_ELSEWHERE = 2**19


class Predictor:
    """Predicts prepared images with the networks of one configuration.

    Args:
        networks: one for each fold, in evaluation mode and on `device`.
        patch_box: tile as (z, y, x) voxels; thickness 1 along `slice_axis` for 2D networks.
        slice_axis: the axis that 2D networks do not see; None for 3D.
        outputs: channels of a network's output.
        activation: what makes probabilities of logits; None averages the logits themselves.
        device: where the networks are.
        mirror_axes: average over all variants mirrored along these axes of (z, y, x) [I2].
        tile_weights: see `voxfit.inference.tiling.gaussian_weights`.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        patch_box: Sequence[int],
        *,
        slice_axis: int | None,
        outputs: int,
        activation: Literal["softmax", "sigmoid"] | None = "softmax",
        device: torch.device | str = "cpu",
        mirror_axes: Sequence[int] = (0, 1, 2),
        tile_weights: Literal["centred", "shifted"] = "centred",
    ) -> None:
        self.networks = tuple(networks)
        self.patch_box = tuple(patch_box)
        self.slice_axis = slice_axis
        self.outputs = outputs
        self.activation = activation
        self.tile_weights: Literal["centred", "shifted"] = tile_weights
        self.device = torch.device(device)
        voxels = _BATCH_VOXELS.get(self.device.type, _BATCH_VOXELS_ELSEWHERE)
        self.per_batch = max(voxels // math.prod(self.patch_box), 1)
        chosen = [range(2) if axis in mirror_axes and axis != slice_axis else range(1) for axis in range(3)]
        # Axes of a (batch, channel, z, y, x) tensor that each variant flips.
        self.flips = [
            [axis + 2 for axis, flipped in enumerate(variant) if flipped] for variant in itertools.product(*chosen)
        ]

    @torch.inference_mode()
    def predict(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities (or logits) of a prepared image.

        Args:
            image: (channel, z, y, x).

        Returns:
            (output, z, y, x).
        """
        padded, inside = _pad(image, self.patch_box)
        weights = torch.from_numpy(gaussian_weights(self.patch_box, self.tile_weights)).to(self.device)
        total = torch.zeros((self.outputs, *padded.shape[1:]))
        norm = torch.zeros(padded.shape[1:])
        boxes = tiles(padded.shape[1:], self.patch_box)
        source = torch.from_numpy(padded)
        for first in range(0, len(boxes), self.per_batch):
            some = boxes[first : first + self.per_batch]
            batch = torch.stack([source[(slice(None), *box.to_slices())] for box in some]).to(self.device)
            probabilities = (self._average(batch) * weights).cpu()
            for box, part in zip(some, probabilities, strict=True):
                total[(slice(None), *box.to_slices())] += part
                norm[box.to_slices()] += weights.cpu()
        total /= norm
        return np.ascontiguousarray(total[(slice(None), *inside.to_slices())].numpy())

    def _average(self, batch: torch.Tensor) -> torch.Tensor:
        """Mean over folds and mirrored variants of (batch, channel, z, y, x) tiles.

        Variants share passes while these stay small: a pass over a single small tile leaves cores idle.
        """
        total = torch.zeros((len(batch), self.outputs, *self.patch_box), device=batch.device)
        together = max(self.per_batch // len(batch), 1)
        for first in range(0, len(self.flips), together):
            flips = self.flips[first : first + together]
            variants = torch.cat([batch.flip(flip) for flip in flips])
            for network in self.networks:
                parts = self._run(network, variants).split(len(batch))
                for flip, part in zip(flips, parts, strict=True):
                    total += part.flip(flip)
        return total / (len(self.flips) * len(self.networks))

    def _run(self, network: Network, batch: torch.Tensor) -> torch.Tensor:
        if self.slice_axis is None:
            logits = network(batch).float()
        else:
            logits = network(batch.squeeze(self.slice_axis + 2)).float().unsqueeze(self.slice_axis + 2)
        match self.activation:
            case "softmax":
                return logits.softmax(dim=1)
            case "sigmoid":
                return logits.sigmoid()
            case None:
                return logits


def _pad(image: NDArray[np.float32], patch: Sequence[int]) -> tuple[NDArray[np.float32], Box]:
    """Zeros around an image that is smaller than a tile, and where the image then lies."""
    # As nnU-Net v2 does it, so that imported models agree: what does not halve goes behind the image.
    start = [-(max(edge - size, 0) // 2) for size, edge in zip(image.shape[1:], patch, strict=True)]
    stop = [low + max(size, edge) for low, size, edge in zip(start, image.shape[1:], patch, strict=True)]
    inside = Box(
        tuple(-low for low in start), tuple(size - low for low, size in zip(start, image.shape[1:], strict=True))
    )
    return cut(image, Box(tuple(start), tuple(stop))), inside

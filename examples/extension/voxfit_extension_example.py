"""A loss, an augmentation, a network and a metric for voxfit, in a package of their own.

pip install examples/extension
voxfit fit DATASET -o RUN --recipe examples/extension/recipe.json
"""

import torch
from torch import nn


def tversky(logits, label, labels, *, per_sample, smoothing):
    """Salehi et al. 2017: missed voxels cost more (0.7) than voxels too many (0.3)."""
    found = logits.softmax(dim=1)[:, 1:]
    wanted = torch.stack([label == index for index in range(1, labels.count)], dim=1).to(found.dtype)
    axes = tuple(range(2, found.ndim)) if per_sample else (0, *range(2, found.ndim))
    overlap, missed, wrong = ((a * b).sum(axes) for a, b in ((found, wanted), (1 - found, wanted), (found, 1 - wanted)))
    return -((overlap + smoothing) / (overlap + 0.7 * missed + 0.3 * wrong + smoothing)).mean()


def bias_field(image, label, rng):
    """A linear change of brightness across one axis, as a coil of a scanner makes it; the label stays."""
    axis, strength = rng.integers(1, image.ndim), rng.uniform(-0.3, 0.3)
    shape = [-1 if other == axis else 1 for other in range(image.ndim)]
    ramp = torch.linspace(-strength, strength, image.shape[axis], dtype=image.dtype, device=image.device)
    return image + ramp.reshape(shape), label


class Dilated(nn.Sequential):
    """Convolutions at full resolution that look further and further; `topology` has channels and axes."""

    def __init__(self, topology, *, deep_supervision):
        convolution, norm = ((nn.Conv2d, nn.InstanceNorm2d), (nn.Conv3d, nn.InstanceNorm3d))[topology.dimension - 2]
        width, parts, inputs = topology.features[0], [], topology.in_channels
        for reach in (1, 2, 4, 1):
            parts += [convolution(inputs, width, 3, padding=reach, dilation=reach), norm(width), nn.LeakyReLU()]
            inputs = width
        super().__init__(*parts, convolution(width, topology.out_channels, 1))


def volume_similarity(reference, predicted, spacing_mm):
    """1 where both volumes are the same, 0 where one is empty; None where both are."""
    sizes = int(reference.sum()), int(predicted.sum())
    return 1 - abs(sizes[0] - sizes[1]) / sum(sizes) if any(sizes) else None

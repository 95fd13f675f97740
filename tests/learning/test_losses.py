"""The loss against the formula, voxel by voxel in float64."""

import math

import numpy as np
import pytest
import torch

from voxfit.learning.losses import dice_and_cross_entropy, soft_dice_loss


def by_hand(logits, target, per_sample, smoothing=1e-5):
    """method.md [T2], written out."""
    batch, classes = logits.shape[:2]
    target = np.maximum(target, 0)
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    u = exponent / exponent.sum(axis=1, keepdims=True)
    entropy = 0.0
    for index in np.ndindex(target.shape):
        entropy -= math.log(u[(index[0], target[index], *index[1:])])
    entropy /= target.size
    groups = [[sample] for sample in range(batch)] if per_sample else [list(range(batch))]
    terms = []
    for group in groups:
        for k in range(1, classes):
            overlap = sum(float((u[b, k] * (target[b] == k)).sum()) for b in group)
            sizes = sum(float(u[b, k].sum() + (target[b] == k).sum()) for b in group)
            terms.append((2 * overlap + smoothing) / (sizes + smoothing))
    return entropy - sum(terms) / len(terms)


@pytest.mark.parametrize("per_sample", [True, False])
@pytest.mark.parametrize("shape", [(3, 4, 5, 6, 4), (2, 3, 7, 5)])
@pytest.mark.parametrize("absent", [False, True])
def test_equals_the_formula(per_sample, shape, absent):
    rng = np.random.default_rng(len(shape))
    logits = rng.normal(size=shape) * 2
    target = rng.integers(-1, shape[1], (shape[0], *shape[2:]))
    if absent:
        target[target == 2] = 0  # a class that the batch does not have
        target[0] = 0
    result = dice_and_cross_entropy(torch.from_numpy(logits), torch.from_numpy(target), per_sample=per_sample)
    assert float(result) == pytest.approx(by_hand(logits, target, per_sample), abs=1e-10)


@pytest.mark.parametrize("per_sample", [True, False])
def test_gradients_equal_finite_differences(per_sample):
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 3, 3, 3, dtype=torch.float64, generator=rng, requires_grad=True)
    target = torch.randint(-1, 3, (2, 3, 3, 3), generator=rng)
    assert torch.autograd.gradcheck(lambda x: dice_and_cross_entropy(x, target, per_sample=per_sample), logits)


def test_the_two_variants_differ_when_samples_do():
    probabilities = torch.tensor([[[0.1, 0.1], [0.9, 0.9]], [[0.9, 0.9], [0.1, 0.1]]])[..., None, :]
    target = torch.tensor([[[1, 1]], [[0, 1]]])
    per_sample = soft_dice_loss(probabilities, target, per_sample=True)
    batch = soft_dice_loss(probabilities, target, per_sample=False)
    assert float(per_sample) == pytest.approx(-(3.6 / 3.8 + 0.2 / 1.2) / 2, abs=1e-4)
    assert float(batch) == pytest.approx(-(2 * 1.9) / (2.0 + 3.0), abs=1e-4)

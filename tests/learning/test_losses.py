"""The loss against the formula, voxel by voxel in float64."""

import math

import numpy as np
import pytest
import torch

from voxfit.imaging.labels import IGNORED, Label, Labels, Region
from voxfit.learning.losses import overlaps, segmentation_loss, soft_dice_loss

CLASSES = Labels(classes=tuple(Label(name=name, value=value) for value, name in enumerate("abc", 1)))
SPARSE = CLASSES.model_copy(update={"ignore": 9})
REGIONS = CLASSES.model_copy(
    update={
        "regions": (
            Region(name="whole", values=(1, 2, 3), paste=1),
            Region(name="core", values=(2, 3), paste=2),
            Region(name="tip", values=(3,), paste=3),
        )
    }
)
BOTH = REGIONS.model_copy(update={"ignore": 9})


def by_hand(logits, label, labels, per_sample, smoothing=1e-5):
    """method.md [T2], written out; regions have a sigmoid and a binary cross-entropy each."""
    batch, known = len(logits), label != IGNORED
    v = np.stack([np.isin(label, members) for members in labels.members], axis=1)
    entropy = 0.0
    if labels.regions:
        u = 1 / (1 + np.exp(-logits))
        for b, k, *place in np.ndindex(logits.shape):
            if known[(b, *place)]:
                p = u[(b, k, *place)]
                entropy -= math.log(p if v[(b, k, *place)] else 1 - p) / len(labels.regions)
    else:
        exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
        u = exponent / exponent.sum(axis=1, keepdims=True)
        for b, *place in np.ndindex(label.shape):
            if known[(b, *place)]:
                entropy -= math.log(u[(b, max(label[(b, *place)], 0), *place)])
        u = u[:, 1:]
    groups = [[sample] for sample in range(batch)] if per_sample else [list(range(batch))]
    terms = []
    for group in groups:
        for k in range(u.shape[1]):
            overlap = sum(float((u[b, k] * v[b, k] * known[b]).sum()) for b in group)
            sizes = sum(float((u[b, k] * known[b]).sum() + (v[b, k] & known[b]).sum()) for b in group)
            terms.append((2 * overlap + smoothing) / (sizes + smoothing))
    return entropy / max(known.sum(), 1) - sum(terms) / len(terms)


KINDS = pytest.mark.parametrize(
    "labels", [CLASSES, SPARSE, REGIONS, BOTH], ids=["classes", "sparse", "regions", "both"]
)


def draw(labels, space, rng):
    """Random logits and labels; a third of the voxels is not annotated where that can be."""
    logits = rng.normal(size=(3, labels.outputs, *space)) * 2
    label = rng.integers(-1, 4, (3, *space))
    if labels.ignore is not None:
        label[rng.random(label.shape) < 1 / 3] = IGNORED
    return logits, label


@KINDS
@pytest.mark.parametrize("per_sample", [True, False])
@pytest.mark.parametrize("space", [(5, 6, 4), (7, 5)])
@pytest.mark.parametrize("absent", [False, True])
def test_equals_the_formula(labels, per_sample, space, absent):
    logits, label = draw(labels, space, np.random.default_rng(len(space)))
    if absent:
        label[label == 2] = 0  # a class that the batch does not have
        label[0] = 0 if labels.ignore is None else IGNORED
    result = segmentation_loss(torch.from_numpy(logits), torch.from_numpy(label), labels, per_sample=per_sample)
    assert float(result) == pytest.approx(by_hand(logits, label, labels, per_sample), abs=1e-10)


@KINDS
@pytest.mark.parametrize("per_sample", [True, False])
def test_gradients_equal_finite_differences(labels, per_sample):
    logits, label = draw(labels, (3, 2, 3), np.random.default_rng(0))
    logits, label = torch.from_numpy(logits).requires_grad_(), torch.from_numpy(label)
    assert torch.autograd.gradcheck(lambda x: segmentation_loss(x, label, labels, per_sample=per_sample), logits)


@pytest.mark.parametrize("labels", [SPARSE, BOTH], ids=["sparse", "both"])
def test_what_is_not_annotated_teaches_nothing(labels):
    logits, label = draw(labels, (4, 5, 3), np.random.default_rng(1))
    logits, label = torch.from_numpy(logits).requires_grad_(), torch.from_numpy(label)
    segmentation_loss(logits, label, labels, per_sample=True).backward()
    silent = (label == IGNORED)[:, None].expand_as(logits)
    assert not logits.grad[silent].any()
    assert logits.grad[~silent].all()
    nothing = segmentation_loss(logits, torch.full_like(label, IGNORED), labels, per_sample=False)
    assert nothing.item() == pytest.approx(-1.0)  # nothing to find, nothing found


@KINDS
def test_overlaps_are_counted(labels):
    logits, label = draw(labels, (5, 4), np.random.default_rng(2))
    hits, sizes = overlaps(torch.from_numpy(logits), torch.from_numpy(label), labels).tolist()
    known = label != IGNORED
    chosen = logits.argmax(axis=1)
    for number, members in enumerate(labels.members):
        found = (logits[:, number] > 0 if labels.regions else chosen == number + 1) & known
        wanted = np.isin(label, members)
        assert (hits[number], sizes[number]) == (2 * (found & wanted).sum(), found.sum() + wanted.sum())


def test_the_two_variants_differ_when_samples_do():
    probabilities = torch.tensor([[[0.1, 0.1], [0.9, 0.9]], [[0.9, 0.9], [0.1, 0.1]]])[:, 1:, None]
    target = torch.tensor([[[1.0, 1.0]], [[0.0, 1.0]]])[:, None]
    per_sample = soft_dice_loss(probabilities, target, per_sample=True)
    batch = soft_dice_loss(probabilities, target, per_sample=False)
    assert float(per_sample) == pytest.approx(-(3.6 / 3.8 + 0.2 / 1.2) / 2, abs=1e-4)
    assert float(batch) == pytest.approx(-(2 * 1.9) / (2.0 + 3.0), abs=1e-4)

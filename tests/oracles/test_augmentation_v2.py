"""Single changes of intensity against nnU-Net v2's own, with equal parameters, where it is installed.

The tolerance of 1e-5 is for values of about 1: both sides calculate in float32 (a rounding is 6e-8) and add up in
another order, a few hundred voxels in a mean, or by a Fourier transform in their blur.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from augmented import augmented
from golden.files import read_json
from voxfit.learning.intensity import (
    Noise,
    add_noise,
    blur,
    gamma_correct,
    simulate_low_resolution,
    stretch_contrast,
)

# Its own warnings, while it is imported too, are not ours.
pytestmark = pytest.mark.filterwarnings("ignore")
pytest.importorskip("batchgeneratorsv2", exc_type=ImportError)

from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform  # noqa: E402
from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform  # noqa: E402
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform  # noqa: E402
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform  # noqa: E402
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform  # noqa: E402
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform  # noqa: E402
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform  # noqa: E402

SHAPES = [(13, 16), (9, 16, 13)]
TOLERANCE = 1e-5


def sample(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return bool((ours - theirs).abs().max() < TOLERANCE)


def peer_noise(image: torch.Tensor, deviation: float, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    channels = len(image)
    return GaussianNoiseTransform(synchronize_channels=True)._apply_to_image(
        image.clone(), num_apply=channels, apply_idx=torch.arange(channels), sigmas=deviation
    )


def peer_blur(image: torch.Tensor, sigmas: list[list[float] | None], benchmark: bool = False) -> torch.Tensor:
    """`benchmark` lets a stopwatch choose between convolutions, as nnU-Net does."""
    return GaussianBlurTransform(benchmark=benchmark)._apply_to_image(
        image.clone(),
        apply_to_channel=torch.tensor([here is not None for here in sigmas]),
        sigmas=[here for here in sigmas if here is not None],
    )


def peer_low_resolution(
    image: torch.Tensor, scales: list[float | None], ignore_axes: tuple[int, ...] | None = None
) -> torch.Tensor:
    axes = image.ndim - 1
    rows = torch.tensor([[scale] * axes for scale in scales if scale is not None])
    if ignore_axes is not None:
        rows[:, ignore_axes] = 1
    change = SimulateLowResolutionTransform((0.5, 1), False, True, ignore_axes)
    chosen = torch.tensor([index for index, scale in enumerate(scales) if scale is not None])
    return change._apply_to_image(image.clone(), apply_to_channel=chosen, scales=rows)


def peer_brightness(image: torch.Tensor, factors: list[float]) -> torch.Tensor:
    change = MultiplicativeBrightnessTransform((0.75, 1.25), False)
    return change._apply_to_image(
        image.clone(), apply_to_channel=torch.arange(len(image)), multipliers=torch.tensor(factors)
    )


def peer_contrast(image: torch.Tensor, factors: list[float]) -> torch.Tensor:
    change = ContrastTransform((0.75, 1.25), True, False)
    return change._apply_to_image(
        image.clone(), apply_to_channel=torch.arange(len(image)), multipliers=torch.tensor(factors)
    )


def peer_gamma(image: torch.Tensor, exponents: list[float], *, inverted: bool) -> torch.Tensor:
    every = torch.ones(len(image), dtype=torch.bool)
    return GammaTransform((0.7, 1.5), 1, False, 1, 1)._apply_to_image(
        image.clone(),
        apply_to_channel=torch.arange(len(image)),
        retain_stats=every,
        invert_image=every if inverted else ~every,
        gamma=torch.tensor(exponents),
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("deviation", [0.0, 0.03, 0.1])
def test_noise(shape: tuple[int, ...], deviation: float) -> None:
    """What they call variance is the deviation that they multiply by."""
    image = sample((2, *shape))
    assert close(add_noise(image.clone(), Noise(deviation, 5)), peer_noise(image, deviation, 5))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("benchmark", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_blur(shape: tuple[int, ...], benchmark: bool, seed: int) -> None:
    """Sigmas on both sides of 0.583 and 0.917, where another voxel comes in, included."""
    image = sample((1, *shape), seed)
    sigmas = np.random.default_rng(seed).uniform(0.5, 1, len(shape)).tolist()
    assert close(blur(image, [sigmas])[0], peer_blur(image, [sigmas], benchmark)[0])


@pytest.mark.parametrize("sigma", [0.5, 0.58, 0.585, 0.75, 0.915, 0.92, 1.0])
def test_blur_ends_where_theirs_ends(sigma: float) -> None:
    point = torch.zeros(1, 15, 15)
    point[0, 7, 7] = 1
    ours, theirs = blur(point, [(sigma, sigma)])[0], peer_blur(point, [[sigma, sigma]])[0]
    assert close(ours, theirs)
    assert torch.equal(ours > 0, theirs > 0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("factor", [0.75, 1.0, 1.1, 1.25])
def test_brightness_and_contrast(shape: tuple[int, ...], factor: float) -> None:
    image = sample((2, *shape)) + 1
    factors = (factor, 1.2)
    ours, _ = augmented(image.clone()[None], [{"brightness": factors}])
    assert close(ours[0], peer_brightness(image, list(factors)))
    assert close(stretch_contrast(image[:1].clone(), [factor])[0], peer_contrast(image[:1], [factor])[0])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(20))
def test_low_resolution(shape: tuple[int, ...], seed: int) -> None:
    image = sample((1, *shape), seed)
    scale = float(np.random.default_rng(seed).uniform(0.5, 1))
    assert close(simulate_low_resolution(image, [scale])[0], peer_low_resolution(image, [scale])[0])
    if len(shape) == 3:
        assert close(simulate_low_resolution(image, [scale], 0)[0], peer_low_resolution(image, [scale], (0,))[0])


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_low_resolution_at_its_ends(scale: float) -> None:
    image = sample((1, 9, 16, 13))
    assert close(simulate_low_resolution(image, [scale])[0], peer_low_resolution(image, [scale])[0])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("exponent", [0.7, 0.9, 1.0, 1.5])
def test_both_gammas(shape: tuple[int, ...], exponent: float) -> None:
    image = sample((2, *shape))
    exponents = (exponent, 1.2)
    assert close(
        gamma_correct(image.clone(), exponents, inverted=True), peer_gamma(image, list(exponents), inverted=True)
    )
    ours, _ = augmented(image.clone()[None], [{"gamma": exponents}])
    assert close(ours[0], peer_gamma(image, list(exponents), inverted=False))


def test_masking() -> None:
    image = sample((3, 9, 16, 13))
    label = torch.randint(-1, 3, (1, 9, 16, 13), generator=torch.Generator().manual_seed(0))
    theirs = MaskImageTransform([0, 2]).apply({"image": image.clone(), "segmentation": label})["image"]
    ours, _ = augmented(image.clone()[None], [{"nonzero_mask": None}], label[None], masked_channels=[0, 2])
    assert torch.equal(ours[0], theirs)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_whole_row(shape: tuple[int, ...]) -> None:
    """All changes one after another; mirroring before our gamma makes no difference. Each adds its own roundings."""
    image = sample((2, *shape))
    sigmas = (0.6, 0.7, 0.8)
    flips = (0, 2)[: len(shape) - 1]
    drawn = {
        "noise": Noise(0.08, 3),
        "blur": (sigmas, None),
        "brightness": (0.8, 1.2),
        "contrast": (1.25, 0.75),
        "low_resolution": (None, 0.6),
        "inverted_gamma": (0.8, 1.3),
        "mirroring": flips,
        "gamma": (1.4, 0.75),
    }
    ours, _ = augmented(image.clone()[None], [drawn])

    theirs = peer_blur(peer_noise(image, 0.08, 3), [list(sigmas[-len(shape) :]), None])
    theirs = peer_contrast(peer_brightness(theirs, [0.8, 1.2]), [1.25, 0.75])
    theirs = peer_gamma(peer_low_resolution(theirs, [None, 0.6]), [0.8, 1.3], inverted=True)
    theirs = peer_gamma(theirs, [1.4, 0.75], inverted=False)
    theirs = theirs.flip([axis + 1 for axis in flips])
    assert (ours[0] - theirs).abs().max() < 5 * TOLERANCE


def their_row() -> dict[str, Any]:
    """The changes of intensity in the row that their trainer builds: names, probabilities, ranges."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    row: list[Any] = nnUNetTrainer.get_training_transforms(
        (16, 16, 16), (-0.5, 0.5), None, (0, 1, 2), True, use_mask_for_norm=[True, False]
    ).transforms
    inner = [(getattr(item, "transform", item), getattr(item, "apply_probability", None)) for item in row]
    names = [type(item).__name__ for item, _ in inner]
    first = names.index("GaussianNoiseTransform")
    assert "Convert2DTo3DTransform" in names[:first]
    (noise, blurred, bright, contrast, coarse, gamma), chances = zip(*inner[first : first + 6], strict=True)
    assert (noise.p_per_channel, noise.synchronize_channels, bright.p_per_channel) == (1, True, 1)
    assert (contrast.preserve_range, coarse.synchronize_axes, coarse.ignore_axes) == (True, True, (0,))
    assert gamma.p_invert_image == 1
    return {
        "order": names[first : first + 9],
        "probabilities": list(chances),
        "channel_probabilities": [blurred.p_per_channel, coarse.p_per_channel],
        "noise": list(noise.noise_variance),
        "blur": list(blurred.blur_sigma),
        "brightness": list(bright.multiplier_range.contrast_range),
        "contrast": list(contrast.contrast_range.contrast_range),
        "resolution": list(coarse.scale),
        "inverted_gamma": list(gamma.gamma.contrast_range),
    }


def test_order_probabilities_and_ranges_are_theirs() -> None:
    """Read from the row that their trainer builds; tests/golden compares ours with the same numbers."""
    pytest.importorskip("nnunetv2", exc_type=ImportError)
    assert their_row() == read_json("augmentation")

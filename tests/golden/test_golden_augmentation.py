"""Single changes of intensity with nnU-Net v2's parameters: against golden files.

The tolerance is of values of about 1: both sides calculate in single precision and add up in another order.
"""

import numpy as np
import pytest
import torch

from augmented import augmented
from golden.files import Golden, read_json
from golden.inputs import CHANGED, FLIPS, SIGMAS, mask_of, sample
from voxfit.learning.intensity import Noise
from voxfit.planning.recipes import IntensitySet, recipe_named

TOLERANCE = 1e-5
OURS = {
    "noise": {"noise": Noise(0.08, 5)},
    "blur": {"blur": (SIGMAS, None)},
    "brightness": {"brightness": (0.75, 1.2)},
    "contrast": {"contrast": (1.25, 0.8)},
    "low resolution": {"low_resolution": (0.6, None)},
    "low resolution of slices": {"low_resolution": (None, 0.7)},
    "gamma": {"gamma": (0.7, 1.4)},
    "inverted gamma": {"inverted_gamma": (1.5, 0.8)},
}


def changed(image, change):
    """A sample of (channel, *patch)."""
    batch, axis = torch.from_numpy(image.copy())[None], 0 if change.endswith("slices") else None
    return augmented(batch, [OURS[change]], through_plane_axis=axis)[0][0]


def close(ours, theirs):
    torch.testing.assert_close(torch.as_tensor(ours), torch.from_numpy(theirs), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("change", "shape"), CHANGED)
def test_changes_of_intensity(change, shape):
    image = sample(shape)
    expected = Golden("augmentation").expected(f"{change}, {len(shape)}D", image)
    assert abs(expected - image).max() > 0.1
    close(changed(image, change), expected)


def test_what_is_outside():
    image, label = sample((6, 7, 8)), mask_of((6, 7, 8))
    expected = Golden("augmentation").expected("mask", image, label)
    batch, layers = torch.from_numpy(image.copy())[None], torch.from_numpy(label)[None]
    found, _ = augmented(batch, [{"nonzero_mask": None}], layers, masked_channels=[1])
    close(found[0], expected)


def test_several_changes():
    """Theirs were made of the mirrored image."""
    drawn = {"contrast": (0.8, 1.1), "inverted_gamma": (1.2, 0.9), "mirroring": tuple(np.flatnonzero(FLIPS))}
    image = sample((6, 7, 8))
    found, _ = augmented(torch.from_numpy(image.copy())[None], [drawn])
    close(found[0], Golden("augmentation").expected("several, mirrored", image))


def test_order_probabilities_and_ranges():
    ours, theirs = IntensitySet(), read_json("augmentation")
    assert recipe_named("nnunet-v2").augmentation_3d.intensity == ours
    assert theirs["order"] == [
        "GaussianNoiseTransform",
        "GaussianBlurTransform",
        "MultiplicativeBrightnessTransform",
        "ContrastTransform",
        "SimulateLowResolutionTransform",
        "GammaTransform",
        "GammaTransform",
        "MirrorTransform",
        "MaskImageTransform",
    ]
    assert theirs["probabilities"] == [
        ours.noise_probability,
        ours.blur_probability,
        ours.brightness_probability,
        ours.contrast_probability,
        ours.resolution_probability,
        ours.inverted_gamma_probability,
    ]
    assert theirs["channel_probabilities"] == [ours.blur_channel_probability, ours.resolution_channel_probability]
    assert theirs["noise"] == list(ours.noise_deviation)
    assert theirs["blur"] == list(ours.blur_sigma)
    assert theirs["brightness"] == list(ours.brightness)
    assert theirs["contrast"] == list(ours.contrast)
    assert theirs["resolution"] == list(ours.resolution)
    assert theirs["inverted_gamma"] == list(ours.inverted_gamma)

"""Preparation, resampling and the way back as nnU-Net v2 does them: against golden files."""

import numpy as np
import pytest

from golden.files import Golden
from golden.inputs import EXPORTED, LABELLED, PREPARED, RESAMPLED, logits_of, resampled
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.labels import Labels
from voxfit.imaging.volume import Volume
from voxfit.inference.postprocessing import segment, to_values
from voxfit.planning.grid import Grid, Preparation
from voxfit.planning.plan import Configuration, Inference, Plan
from voxfit.preprocessing.case import prepare
from voxfit.preprocessing.output_resampling import Computed
from voxfit.preprocessing.resampling import resample, resample_linear

AS_NNUNET = Preparation(first="normalize", coarse_axis_ratio=3.0, labels="linear")
CLOSE = 1e-4
"""Of the range: nnU-Net resamples in double precision, ours in single."""


def grid_of(case):
    """The grid of a case; nnU-Net's slices lie across the first of its turned axes."""
    spacing_mm = case.new_mm
    if len(spacing_mm) == 2:
        planes = case.axes[1:]
        spacing_mm = tuple(None if axis == case.axes[0] else case.new_mm[planes.index(axis)] for axis in range(3))
    return Grid(spacing_mm=spacing_mm, normalization=tuple(rule for rule, *_ in case.schemes), preparation=AS_NNUNET)


def close(ours, theirs):
    assert ours.shape == theirs.shape
    for channel, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(channel, expected, rtol=0, atol=CLOSE * max(float(np.ptp(expected)), 1.0))


@pytest.mark.parametrize("name", PREPARED)
def test_prepared_cases(name):
    """With a label, all that is labelled counts as inside of the nonzero mask; without one, what is nonzero."""
    golden, case = Golden("preparation"), PREPARED[name]
    image, label = case.made()
    volume = Volume(image, Geometry(case.shape, case.spacing_mm))
    prepared = prepare(volume, grid_of(case), label)
    close(prepared.image, golden.expected(f"{name}: image", image, label))
    close(prepare(volume, grid_of(case)).image, golden.expected(f"{name}: image alone", image))
    assert np.array_equal(prepared.label, golden.expected(f"{name}: label", image, label))


@pytest.mark.parametrize("name", RESAMPLED)
def test_resampled_arrays(name):
    golden, (image, label) = Golden("resampling"), resampled(name)
    _, new, separate_axis = RESAMPLED[name]
    close(resample(image, new, 1, separate_axis=separate_axis), golden.expected(f"{name}: order 1", image))
    close(resample(image, new, 3, separate_axis=separate_axis, clip=True), golden.expected(f"{name}: order 3", image))
    assert np.array_equal(
        resample_linear(label, new, separate_axis=separate_axis), golden.expected(f"{name}: label", label)
    )


@pytest.mark.parametrize("name", LABELLED)
def test_label_maps_of_logits(name):
    """Resampled to the image's grid, decided there, and put where the crop was."""
    image, _ = EXPORTED.made()
    labels = Labels.from_description(*LABELLED[name])
    plan = Plan(
        dataset="golden",
        channel_names=("CT",),
        labels=labels,
        num_cases=1,
        normalization=tuple(rule for rule, *_ in EXPORTED.schemes),
        configurations={"3d": CONFIGURATION},
        preparation=AS_NNUNET,
        inference=Inference(average_over="logits"),
    )
    placement = prepare(Volume(image, Geometry(EXPORTED.shape, EXPORTED.spacing_mm)), plan.grid("3d")).placement
    logits = logits_of(len(labels.regions) or labels.count, placement.shape)
    expected = Golden("label_maps").expected(name, image, logits)
    assert len(np.unique(expected)) == labels.count
    assert np.array_equal(to_values(segment([(Computed(logits), placement)], plan), labels.values), expected)


CONFIGURATION = Configuration(
    spacing=EXPORTED.new_mm,
    median_shape=EXPORTED.shape,
    patch_size=(8, 8, 8),
    batch_size=2,
    num_pool=(1, 1, 1),
    base_features=2,
    max_features=None,
    dice="batch",
    augmentation="3d",
)

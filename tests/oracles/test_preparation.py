"""Preparation and tiling against nnU-Net v2 itself, where it is installed."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from golden.inputs import CT, SCHEMES, Scheme
from voxfit.imaging.geometry import Box, Geometry
from voxfit.imaging.volume import Volume, read_image, read_label
from voxfit.inference.tiling import gaussian_profile, tile_starts
from voxfit.planning.fingerprint import crop_box, resampled_shape
from voxfit.planning.grid import Grid, Preparation
from voxfit.preprocessing.case import prepare
from voxfit.preprocessing.output_resampling import Computed, Regridding
from voxfit.preprocessing.resampling import coarse_axis, resample, resample_linear

# Its own warnings, while it is imported too, are not ours.
pytestmark = pytest.mark.filterwarnings("ignore")
pytest.importorskip("nnunetv2", exc_type=ImportError)

CLOSE = 1e-4
"""Of the range of the values. nnU-Net resamples in double precision, we in single; networks compute in half precision,
whose step is five times this."""

AS_NNUNET = Preparation(first="normalize", coarse_axis_ratio=3.0, labels="linear")
# Few sizes, so that equal ones meet, ratios of exactly 3 and above, and halves that are rounded.
sizes_mm = st.sampled_from([0.5, 0.7, 1.0, 1.25, 1.5, 3.0, 3.3, 5.0, 10.0])
spacings = st.tuples(sizes_mm, sizes_mm, sizes_mm)
edges = st.integers(1, 14)
shapes = st.tuples(edges, edges, edges)
axes = st.permutations([0, 1, 2])


@dataclass
class Oracle:
    """nnU-Net's preprocessor with plans that need no folder.

    Attributes:
        spacing_mm: (z, y, x) of the grid; for 2D, of the last two of `axes`.
        schemes: of `SCHEMES`, one for each channel.
        axes: `transpose_forward`.
    """

    spacing_mm: tuple[float, ...]
    schemes: list[Scheme]
    axes: tuple[int, ...] = (0, 1, 2)

    def plans(self) -> Any:
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        configuration: dict[str, Any] = {
            "spacing": list(self._turned(self.spacing_mm)),
            "normalization_schemes": [name for _, name, _ in self.schemes],
            "use_mask_for_norm": [mask for *_, mask in self.schemes],
            "architecture": {},
        }
        for kind, (is_seg, order) in {"data": (False, 3), "seg": (True, 1), "probabilities": (False, 1)}.items():
            configuration[f"resampling_fn_{kind}"] = "resample_data_or_seg_to_shape"
            configuration[f"resampling_fn_{kind}_kwargs"] = {
                "is_seg": is_seg,
                "order": order,
                "order_z": 0,
                "force_separate_z": None,
            }
        properties = {
            "mean": CT.mean,
            "std": CT.standard_deviation,
            "percentile_00_5": CT.lower,
            "percentile_99_5": CT.upper,
        }
        return PlansManager(
            {
                "transpose_forward": list(self.axes),
                "transpose_backward": np.argsort(self.axes).tolist(),
                "configurations": {"it": configuration},
                "label_manager": "LabelManager",
                "foreground_intensity_properties_per_channel": {
                    str(channel): properties for channel in range(len(self.schemes))
                },
            }
        )

    def _turned(self, values: tuple[float, ...]) -> list[float]:
        return [values[axis] for axis in self.axes] if len(values) == 3 else list(values)

    def _back(self, array: NDArray[Any]) -> NDArray[Any]:
        return array.transpose(0, *(1 + np.argsort(self.axes)))

    def image(self, volume: Volume, label: NDArray[np.int16] | None) -> NDArray[Any]:
        return self._run(volume, None if label is None else label[None])[0]

    def label(self, volume: Volume, label: NDArray[np.int16]) -> NDArray[Any]:
        return self._run(volume, label[None])[1][0]

    def _run(self, volume: Volume, label: NDArray[np.int16] | None) -> tuple[NDArray[Any], NDArray[Any]]:
        from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

        plans = self.plans()
        data, seg, _ = DefaultPreprocessor(verbose=False).run_case_npy(
            volume.array,
            label,
            {"spacing": list(volume.geometry.spacing_mm)},
            plans,
            plans.get_configuration("it"),
            {"labels": {"background": 0, "a": 1, "b": 2, "c": 3, "d": 4}},
        )
        return self._back(data), self._back(seg)

    def to_image_grid(
        self, values: NDArray[np.float32], shape: tuple[int, ...], spacing_mm: tuple[float, ...]
    ) -> NDArray[Any]:
        """As in its `export_prediction`."""
        spacing = self._turned(spacing_mm)
        current = self._turned(self.spacing_mm)
        current = current if len(current) == 3 else [spacing[0], *current]
        turned = values.transpose(0, *(1 + np.array(self.axes)))
        wanted = [shape[axis] for axis in self.axes]
        function = self.plans().get_configuration("it").resampling_fn_probabilities
        return self._back(np.asarray(function(turned, wanted, current, spacing)))


def compare(volume: Volume, label: NDArray[np.int16], oracle: Oracle) -> None:
    """Both ways of a case, ours and theirs."""
    spacing_mm: tuple[float | None, ...] = oracle.spacing_mm
    if len(oracle.spacing_mm) == 2:
        spacing_mm = tuple(
            None if axis == oracle.axes[0] else oracle.spacing_mm[oracle.axes[1:].index(axis)] for axis in range(3)
        )
    grid = Grid(spacing_mm=spacing_mm, normalization=tuple(rule for rule, *_ in oracle.schemes), preparation=AS_NNUNET)
    ours = prepare(volume, grid, label)
    # With a label, all that is labelled counts as inside of the nonzero mask; without one, what is nonzero.
    for shown, found in ((label, ours.image), (None, prepare(volume, grid).image)):
        image = oracle.image(volume, shown)
        assert found.shape == image.shape
        for channel, expected in zip(found, image, strict=True):
            assert np.abs(channel - expected).max() <= CLOSE * max(float(np.ptp(expected)), 1.0)
    assert ours.label is not None
    compare_labels(ours.label, oracle.label(volume, label), volume, label, grid, oracle)
    logits = np.random.default_rng(0).normal(size=(2, *ours.placement.shape)).astype(np.float32)
    way = Regridding.of(Computed(logits), ours.placement.crop.shape, ours.placement.coarse_axis)
    back = way.stream(Box.whole(way.shape), 0).read(0, way.shape[0])
    expected = oracle.to_image_grid(logits, ours.placement.crop.shape, volume.geometry.spacing_mm)
    assert back.shape == expected.shape
    assert np.abs(back - expected).max() <= CLOSE * max(float(np.ptp(logits)), 1.0)


def compare_labels(
    ours: NDArray[np.int16],
    theirs: NDArray[Any],
    volume: Volume,
    label: NDArray[np.int16],
    grid: Grid,
    oracle: Oracle,
) -> None:
    """The same in every voxel; where nnU-Net turns axes, except for voxels of which two labels have equally much.

    It adds up in the order of its axes, so that a tie of ours may be none of theirs, by the last of 16 digits.
    """
    if oracle.axes == (0, 1, 2):
        assert np.array_equal(ours, theirs)
    old_mm = volume.geometry.spacing_mm
    cropped = prepare(volume, grid.model_copy(update={"spacing_mm": (None, None, None)}), label).label
    separate_axis = coarse_axis(old_mm, grid.spacing_of(old_mm), 3.0)
    for voxel in map(tuple, np.argwhere(ours != theirs)):
        masks = np.stack([cropped == found[voxel] for found in (ours, theirs)]).astype(np.float32)
        shares = resample(masks, ours.shape, order=1, separate_axis=separate_axis)[(slice(None), *voxel)]
        assert abs(shares[0] - shares[1]) < 1e-6  # these are in single precision


def crop_shape(volume: Volume) -> tuple[int, ...]:
    return crop_box(volume.array).shape


def volume_of(shape, spacing_mm, channels, seed):
    """Noise within a nonzero mask that has holes, and now and then does not reach the border."""
    rng = np.random.default_rng(seed)
    image = rng.gamma(2.0, 50.0, (channels, *shape)).astype(np.float32)
    image[:, rng.random(shape) < 0.4] = 0
    image[(slice(None), *(size // 2 for size in shape))] = 1.0  # all of it zero is an error in nnU-Net
    return Volume(image, Geometry(shape, spacing_mm)), rng.integers(0, 4, shape).astype(np.int16)


@settings(max_examples=200)
@given(shapes, spacings, spacings, axes, st.integers(0, 2**32 - 1))
def test_cases_there_and_back(shape, spacing_mm, new_spacing_mm, turned, seed):
    volume, label = volume_of(shape, spacing_mm, len(SCHEMES), seed)
    # nnU-Net makes arrays of no voxels where we keep one.
    assume(
        all(
            old / new * size > 0.5
            for size, old, new in zip(crop_shape(volume), spacing_mm, new_spacing_mm, strict=True)
        )
    )
    compare(volume, label, Oracle(new_spacing_mm, SCHEMES, tuple(turned)))


@settings(max_examples=50)
@given(shapes, spacings, st.tuples(sizes_mm, sizes_mm), axes, st.integers(0, 2**32 - 1))
def test_slices_there_and_back(shape, spacing_mm, new_spacing_mm, turned, seed):
    volume, label = volume_of(shape, spacing_mm, 1, seed)
    crop = [crop_shape(volume)[axis] for axis in turned[1:]]
    old_mm = [spacing_mm[axis] for axis in turned[1:]]
    assume(all(old / new * size > 0.5 for size, old, new in zip(crop, old_mm, new_spacing_mm, strict=True)))
    compare(volume, label, Oracle(new_spacing_mm, SCHEMES[1:2], tuple(turned)))


@pytest.mark.parametrize("spacing_mm", [(10.0, 1.25, 1.25), (8.0, 1.0, 1.0), (2.5, 2.5, 2.5), (20.0, 1.6, 1.1)])
def test_a_heart_in_thick_slices(shared_data, spacing_mm):
    folder = shared_data / "Dataset027_Cardiac"
    volume = read_image(folder / "imagesTr" / "A_A0S9V9_ED_0000.nii.gz")
    label = read_label(folder / "labelsTr" / "A_A0S9V9_ED.nii.gz").array.astype(np.int16)
    compare(volume, label, Oracle(spacing_mm, SCHEMES[:1], (0, 2, 1)))


def test_a_brain_without_its_skull(shared_data):
    folder = shared_data / "Task01_BrainTumour6"
    volume = read_image(folder / "imagesTr" / "brats_2013_pat0001_1.nii.gz")
    label = read_label(folder / "labelsTr" / "brats_2013_pat0001_1.nii.gz").array.astype(np.int16)
    coarse = Volume(volume.array[:, ::2, ::2, ::2], Geometry(volume.array[0, ::2, ::2, ::2].shape, (2.0, 2.0, 2.0)))
    compare(coarse, label[::2, ::2, ::2].copy(), Oracle((1.7, 1.5, 1.9), SCHEMES[1:2] * len(volume.array)))


def test_a_ct(shared_data):
    folder = shared_data / "ct_cases"
    volume = read_image(folder / "spleen_2_image.nii.gz")
    label = read_label(folder / "spleen_2_label.nii.gz").array.astype(np.int16)
    compare(volume, label, Oracle((3.0, 1.1, 1.1), SCHEMES[2:3]))


@settings(max_examples=500)
@given(spacings, spacings)
def test_the_axis_that_is_apart(spacing_mm, new_spacing_mm):
    from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis

    separate_axis, axis = determine_do_sep_z_and_axis(None, spacing_mm, new_spacing_mm)
    assert coarse_axis(spacing_mm, new_spacing_mm, 3.0) == (axis if separate_axis else None)


@settings(max_examples=500)
@given(st.tuples(*[st.integers(1, 700)] * 3), spacings, spacings)
def test_shapes(shape, spacing_mm, new_spacing_mm):
    from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

    expected = compute_new_shape(shape, spacing_mm, new_spacing_mm)
    assert resampled_shape(shape, spacing_mm, new_spacing_mm) == tuple(np.maximum(expected, 1).tolist())


@settings(max_examples=200)
@given(shapes, shapes, st.sampled_from([None, 0, 1, 2]), st.integers(0, 2**32 - 1))
def test_labels_and_images_of_any_shape(old, new, separate_axis, seed):
    """Sizes of all kinds, and labels of which several meet in a voxel."""
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg

    rng = np.random.default_rng(seed)
    image, label = rng.normal(size=(2, *old)).astype(np.float32), rng.integers(-1, 4, old).astype(np.int16)
    way = {"axis": separate_axis, "do_separate_z": separate_axis is not None}
    expected = resample_data_or_seg(label[None], new, is_seg=True, order=1, **way)
    assert np.array_equal(resample_linear(label, new, separate_axis=separate_axis), expected[0])
    for order, clip in ((1, False), (1, True), (3, True)):
        expected = resample_data_or_seg(image, new, order=order, **way)
        found = resample(image, new, order, separate_axis=separate_axis, clip=clip)
        assert np.abs(found - expected).max() <= CLOSE * max(float(np.ptp(image)), 1.0)


@settings(max_examples=500)
@given(st.integers(0, 600), st.integers(2, 320))
def test_tiles_begin_where_theirs_do(more, edge):
    from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window

    assert [tile_starts(edge + more, edge)] == compute_steps_for_sliding_window((edge + more,), (edge,), 0.5)


@pytest.mark.parametrize("patch", [(16, 20, 24), (7, 9, 32), (5, 1, 12), (56, 40), (3, 2, 2)])
def test_weights_are_theirs_in_single_precision(patch):
    import torch
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian

    theirs = compute_gaussian(patch, value_scaling_factor=10, dtype=torch.float32, device=torch.device("cpu")).numpy()
    ours = functools.reduce(np.multiply.outer, [gaussian_profile(edge, "shifted") for edge in patch])
    # Theirs are rounded to single precision once, ours are not: that is one step of 6e-8.
    assert np.abs(ours / (theirs / 10) - 1).max() < 1.3e-7

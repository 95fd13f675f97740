"""Whatever the grid: a case that is prepared and brought back has its shape, its header and its labels."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from fuzz.budget import SETTINGS
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.volume import Volume, from_sitk, read_label
from voxfit.imaging.writing import to_sitk, write_label
from voxfit.planning.grid import Grid, ZScore
from voxfit.preprocessing.case import prepare
from voxfit.preprocessing.output_resampling import Computed
from voxfit.preprocessing.reverting import revert_preprocessing

SHAPES = st.tuples(*[st.integers(1, 40)] * 3)
SPACINGS = st.tuples(*[st.floats(0.05, 20)] * 3)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    angles = draw(st.tuples(*[st.floats(-180, 180)] * 3))
    matrix = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    axes = matrix[:, draw(st.permutations(range(3)))] * draw(st.sampled_from([1, -1]))
    origin = draw(st.tuples(*[st.floats(-1e4, 1e4)] * 3))
    return Geometry(draw(SHAPES), draw(SPACINGS), origin, tuple(axes.ravel().tolist()))


def case_of(geometry: Geometry, seed: int, margin: int) -> tuple[Volume, np.ndarray]:
    """An image with an empty rim, and a label within it."""
    rng = np.random.default_rng(seed)
    image = rng.normal(100, 10, (1, *geometry.shape)).astype(np.float32)
    label = rng.integers(0, 4, geometry.shape).astype(np.int16)
    for axis in range(3):
        if geometry.shape[axis] > 2 * margin:
            rim = np.r_[0:margin, geometry.shape[axis] - margin : geometry.shape[axis]]
            image.swapaxes(1, axis + 1)[:, rim] = 0
            label.swapaxes(0, axis)[rim] = 0
    return Volume(image, geometry), label


@settings(**SETTINGS)
@given(geometries(), st.integers(0, 1000), st.integers(0, 3), st.booleans())
def test_labels_come_back_exactly_at_their_own_spacing(geometry: Geometry, seed: int, margin: int, own: bool) -> None:
    volume, label = case_of(geometry, seed, margin)
    spacing = (None,) * 3 if own else geometry.spacing_mm
    prepared = prepare(volume, Grid(spacing_mm=spacing, normalization=(ZScore(),)), label)
    assert prepared.label is not None
    assert prepared.image.shape[1:] == prepared.label.shape == prepared.placement.shape
    back = np.maximum(prepared.label, 0)
    one_hot = np.stack([back == index for index in range(4)]).astype(np.float32)
    restored = revert_preprocessing([(Computed(one_hot), prepared.placement)], lambda values: values.argmax(axis=0))
    np.testing.assert_array_equal(restored, label)
    np.testing.assert_array_equal(prepared.placement.uncrop(back), label)


@settings(**SETTINGS)
@given(geometries(), SPACINGS, st.integers(0, 1000), st.integers(0, 3))
def test_any_spacing_leads_back_to_the_grid_of_the_image(
    geometry: Geometry, target: tuple[float, ...], seed: int, margin: int
) -> None:
    # No more than eight times finer, so that arrays stay small.
    target = tuple(max(new, old / 8) for new, old in zip(target, geometry.spacing_mm, strict=True))
    volume, label = case_of(geometry, seed, margin)
    prepared = prepare(volume, Grid(spacing_mm=target, normalization=(ZScore(),)), label)
    extent = np.multiply(prepared.placement.crop.shape, geometry.spacing_mm)
    found = np.array(prepared.placement.shape)
    # As many whole voxels as come closest to the extent, one at least.
    assert (np.abs(found * target - extent)[found > 1] <= 0.5 * (1 + 1e-9) * np.array(target)[found > 1]).all()
    assert (extent[found == 1] <= 1.5 * (1 + 1e-9) * np.array(target)[found == 1]).all()
    assert prepared.image.shape[1:] == prepared.placement.shape
    assert np.isfinite(prepared.image).all()
    assert prepared.label is not None
    assert set(np.unique(prepared.label)) <= {-1, *np.unique(label)}
    outputs = np.stack([prepared.label == index for index in range(4)]).astype(np.float32)
    restored = revert_preprocessing([(Computed(outputs), prepared.placement)], lambda values: values.argmax(axis=0))
    assert restored.shape == geometry.shape
    assert set(np.unique(restored)) <= {0, *np.unique(label)}
    assert prepared.placement.geometry == geometry


@settings(**SETTINGS)
@given(geometries(), st.sampled_from([".nii.gz", ".nrrd", ".mha"]), st.integers(0, 1000))
def test_label_files_keep_grid_and_values(tmp_path_factory, geometry: Geometry, ending: str, seed: int) -> None:
    _, label = case_of(geometry, seed, 1)
    path = tmp_path_factory.mktemp("label") / f"x{ending}"
    write_label(path, label.astype(np.uint8), geometry)
    found = read_label(path)
    np.testing.assert_array_equal(found.array, label)
    assert found.geometry.shape == geometry.shape
    # NIfTI keeps single precision: the farthest coordinate decides, in units of the smallest voxel.
    farthest = np.abs(geometry.origin_mm).max() + np.dot(geometry.shape, geometry.spacing_mm)
    assert geometry.farthest_corner_gap(found.geometry) < 1e-6 + 1e-6 * farthest / min(geometry.spacing_mm)
    again = from_sitk(to_sitk(label, geometry))
    np.testing.assert_array_equal(again.array[0], label)
    assert geometry.farthest_corner_gap(again.geometry) < 1e-6

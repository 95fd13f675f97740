from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from voxfit.imaging.geometry import Box, Geometry, Turn, cut, is_orientation, nonzero_box, paste, usual_orientation

shapes = hnp.array_shapes(min_dims=2, max_dims=3, max_side=5)


@st.composite
def arrays_with_boxes(draw: st.DrawFn, *, inside: bool = False) -> tuple[NDArray[np.int16], Box]:
    """An array with zero or one leading axis, and a box of its other axes that may reach outside."""
    spatial = draw(shapes)
    leading = draw(st.sampled_from([(), (2,)]))
    start, stop = [], []
    for size in spatial:
        ends = sorted(draw(st.integers(0, size) if inside else st.integers(-8, 13)) for _ in range(2))
        start.append(ends[0])
        stop.append(ends[1])
    array = np.arange(1, np.prod([*leading, *spatial]) + 1, dtype=np.int16).reshape(*leading, *spatial)
    return array, Box(tuple(start), tuple(stop))


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Oblique, flipped, of any spacing."""
    direction = Rotation.random(random_state=draw(st.integers(0, 999))).as_matrix()
    direction = direction * draw(st.sampled_from(list(itertools.product([-1, 1], repeat=3))))
    spacing = draw(st.tuples(*[st.floats(0.1, 10)] * 3))
    origin = draw(st.tuples(*[st.floats(-200, 200)] * 3))
    shape = draw(st.tuples(*[st.integers(1, 5)] * 3))
    return Geometry(shape, spacing, origin, tuple(direction.ravel().tolist()))


@given(arrays_with_boxes(), st.sampled_from([0, -1, 7]))
def test_cut_is_a_slice_of_the_padded_array(drawn: tuple[NDArray[np.int16], Box], fill: int) -> None:
    array, box = drawn
    axes = len(box.start)
    margin = 20
    padded = np.pad(array, [(0, 0)] * (array.ndim - axes) + [(margin, margin)] * axes, constant_values=fill)
    expected = padded[(..., *(slice(a + margin, b + margin) for a, b in zip(box.start, box.stop, strict=True)))]
    result = cut(array, box, fill)
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(cut(array, box, fill, copy=False), expected)
    assert result.shape[array.ndim - axes :] == box.shape
    assert result.dtype == array.dtype


@given(arrays_with_boxes(inside=True))
def test_paste_undoes_a_crop(drawn: tuple[NDArray[np.int16], Box]) -> None:
    array, box = drawn
    spatial = array.shape[-len(box.start) :]
    part = cut(array, box)
    assert not np.shares_memory(part, array)
    assert np.shares_memory(cut(array, box, copy=False), array) or not part.size
    result = paste(part, box, spatial)
    inside = np.zeros(spatial, bool)
    inside[box.to_slices()] = True
    np.testing.assert_array_equal(result, np.where(inside, array, 0))
    assert result.dtype == array.dtype


@given(hnp.arrays(np.bool_, shapes, elements=st.sampled_from([False, False, False, True])))
def test_the_nonzero_box_is_that_of_all_indices(mask: NDArray[np.bool_]) -> None:
    hits = np.argwhere(mask)
    box = nonzero_box(mask)
    if not len(hits):
        assert box is None
    else:
        assert box == Box(tuple(hits.min(0).tolist()), tuple((hits.max(0) + 1).tolist()))


@given(shapes)
def test_the_whole_box_cuts_nothing_off(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).random(shape)
    assert Box.whole(shape).shape == shape
    np.testing.assert_array_equal(cut(array, Box.whole(shape)), array)


@given(geometries())
def test_the_affine_places_voxels_as_simpleitk_does(geometry: Geometry) -> None:
    image = sitk.Image([int(size) for size in geometry.shape[::-1]], sitk.sitkUInt8)
    image.SetSpacing(geometry.spacing_mm[::-1])
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(geometry.direction)
    for index in itertools.product(*(range(size) for size in image.GetSize())):
        expected = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose((geometry.affine() @ [*index, 1])[:3], expected, atol=1e-6)


@given(geometries(), geometries())
def test_the_gap_is_the_largest_over_all_voxels(one: Geometry, other: Geometry) -> None:
    other = Geometry(one.shape, other.spacing_mm, other.origin_mm, other.direction)
    voxels = np.array(list(itertools.product(*(range(size) for size in one.shape[::-1]), [1]))).T
    gap_mm = np.linalg.norm(((one.affine() - other.affine()) @ voxels)[:3], axis=0).max()
    extended = [spacing for spacing, size in zip(one.spacing_mm, one.shape, strict=True) if size > 1]
    assert one.farthest_corner_gap(other) == pytest.approx(gap_mm / min(extended or [1.0]), rel=1e-9, abs=1e-9)
    assert one.farthest_corner_gap(one) == 0


def test_a_shifted_grid_is_as_far_away_as_it_was_shifted() -> None:
    def grid(origin: tuple[float, ...], **more: Any) -> Geometry:
        return Geometry((4, 5, 6), (2.0, 1.0, 0.5), origin, **more)

    assert grid((0.0, 0.0, 0.0)).farthest_corner_gap(grid((0.0, 0.0, 3.0))) == pytest.approx(6)
    flipped = grid((0.0, 0.0, 0.0), direction=(1.0, 0, 0, 0, 1.0, 0, 0, 0, -1.0))
    # The far end of the first axis is 3 steps of 2 mm on the other side.
    assert grid((0.0, 0.0, 0.0)).farthest_corner_gap(flipped) == pytest.approx(2 * 3 * 2 / 0.5)


# Axes of the patient

orientations = st.builds(
    lambda order, signs: "".join(("RL", "AP", "IS")[axis][sign] for axis, sign in zip(order, signs, strict=True)),
    st.permutations(range(3)),
    st.tuples(*[st.integers(0, 1)] * 3),
)


def image_of(geometry: Geometry) -> sitk.Image:
    """Every voxel another value."""
    array = np.arange(np.prod(geometry.shape), dtype=np.int32).reshape(geometry.shape)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(geometry.spacing_mm[::-1])
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(geometry.direction)
    return image


@given(geometries())
def test_axes_point_where_simpleitk_says(geometry: Geometry) -> None:
    found = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(geometry.direction)
    assert geometry.orientation == found


@given(geometries(), orientations)
def test_turning_is_that_of_simpleitk_and_undone_exactly(geometry: Geometry, wanted: str) -> None:
    image = image_of(geometry)
    turned = sitk.DICOMOrient(image, wanted)
    array = sitk.GetArrayFromImage(image)
    turn = Turn.between(geometry.orientation, wanted)
    if turn is None:
        assert geometry.orientation == wanted
        turn = Turn((0, 1, 2), (False,) * 3)
    np.testing.assert_array_equal(turn.apply(array), sitk.GetArrayFromImage(turned))
    np.testing.assert_array_equal(turn.undo(turn.apply(array)), array)
    channels = np.stack([array, array + 1])
    np.testing.assert_array_equal(turn.undo(turn.apply(channels)), channels)
    assert turn.order(geometry.shape) == turned.GetSize()[::-1]
    np.testing.assert_allclose(turn.order(geometry.spacing_mm), turned.GetSpacing()[::-1])


@given(orientations, orientations)
def test_any_way_back_is_the_identity(old: str, new: str) -> None:
    array = np.arange(24).reshape(2, 3, 4)
    there, back = Turn.between(old, new), Turn.between(new, old)
    if there is None or back is None:
        assert old == new
        return
    np.testing.assert_array_equal(back.apply(there.apply(array)), array)
    np.testing.assert_array_equal(there.undo(there.apply(array)), array)
    np.testing.assert_array_equal(there.apply(there.undo(array)), array)


def test_what_does_not_say_where_its_axes_point_is_never_turned() -> None:
    flat = Geometry((1, 5, 6), (1.0, 1.0, 1.0), dimension=2)
    unknown = Geometry((4, 5, 6), (1.0, 1.0, 1.0), oriented=False)
    assert flat.orientation == unknown.orientation == ""
    assert Turn.between("", "LPS") is Turn.between("LPS", "") is Turn.between("RAS", "RAS") is None


@pytest.mark.parametrize("code", ["", "LP", "LPSS", "LRS", "LLL", "lps", "XYZ", "PSP"])
def test_what_is_no_orientation(code: str) -> None:
    assert not is_orientation(code)


@given(orientations)
def test_what_is_an_orientation(code: str) -> None:
    assert is_orientation(code)


@given(st.lists(st.sampled_from(["LPS", "RAS", "PSR", ""]), min_size=1, max_size=9))
def test_the_usual_orientation_is_that_of_most_and_the_first_of_several(codes: list[str]) -> None:
    most = max(codes.count(code) for code in codes)
    assert usual_orientation(codes) == next(code for code in codes if codes.count(code) == most)

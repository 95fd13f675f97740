"""A case there and back: cropping, grids, masks; overlays checked by SimpleITK."""

import numpy as np
import pytest
import scipy.ndimage
import SimpleITK as sitk
import skimage.transform
from hypothesis import given, settings
from hypothesis import strategies as st

from voxfit.imaging.geometry import Box, Geometry
from voxfit.imaging.labels import IGNORED
from voxfit.imaging.volume import Volume, read_image, read_label
from voxfit.imaging.writing import to_sitk
from voxfit.planning.grid import ClipAndScale, Grid, Preparation, ZScore
from voxfit.preprocessing.case import OUTSIDE, prepare
from voxfit.preprocessing.output_resampling import Computed, Regridding
from voxfit.preprocessing.reverting import revert_preprocessing

AS_PAPER = Preparation()
AS_NNUNET = Preparation(first="normalize", coarse_axis_ratio=3.0, labels="linear")
OBLIQUE = tuple(np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0].ravel().tolist())


def most_likely(values):
    return values.argmax(axis=0).astype(np.uint8)


def restored(placement, values):
    return revert_preprocessing([(Computed(values), placement)], most_likely)


def on_image_grid(placement, values):
    grid = Regridding.of(Computed(values), placement.crop.shape, placement.coarse_axis)
    return grid.stream(Box.whole(grid.shape), 0).read(0, grid.shape[0])


def grid(*spacing, masked=False, preparation=AS_PAPER):
    return Grid(spacing_mm=spacing, normalization=(ZScore(inside_mask=masked),), preparation=preparation)


def volume(shape, spacing=(1.0, 1.0, 1.0), seed=0, **geometry):
    image = np.random.default_rng(seed).random((1, *shape)).astype(np.float32) + 0.1
    return Volume(image, Geometry(shape, spacing, **geometry))


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(1, 20)] * 3), st.tuples(*[st.floats(0.3, 5)] * 3), st.integers(0, 1000))
def test_labels_on_their_own_grid_come_back_identical(shape, spacing, seed):
    rng = np.random.default_rng(seed)
    case = volume(shape, spacing, seed)
    case.array[0][rng.random(shape) < 0.3] = 0  # some cropping
    label = rng.integers(0, 4, shape).astype(np.int16)
    label[case.array[0] == 0] = 0
    prepared = prepare(case, grid(*spacing), label)
    one_hot = np.stack([prepared.label == index for index in range(4)]).astype(np.float32)
    assert np.array_equal(restored(prepared.placement, one_hot), label)


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(1, 20)] * 3), st.tuples(*[st.floats(0.3, 5)] * 3), st.tuples(*[st.floats(0.3, 5)] * 3))
def test_any_grid_is_left_and_found_again(shape, spacing, target):
    case = volume(shape, spacing)
    placement = prepare(case, grid(*target)).placement
    assert restored(placement, np.ones((2, *placement.shape), np.float32)).shape == shape


@pytest.mark.parametrize("direction", [tuple(np.eye(3).ravel()), (-1, 0, 0, 0, 1, 0, 0, 0, -1), OBLIQUE])
def test_a_ball_stays_where_it_is_in_space(direction):
    shape, spacing = (24, 40, 36), (3.0, 1.1, 1.3)
    geometry = Geometry(shape, spacing, (12.0, -30.0, 55.0), tuple(float(value) for value in direction))
    image = np.zeros(shape, np.float32)
    image[3:-2, 4:-5, 2:-3] = 1.0  # the rest is cropped
    axes = np.meshgrid(*[np.arange(size) * step for size, step in zip(shape, spacing, strict=True)], indexing="ij")
    ball = sum((axis - middle) ** 2 for axis, middle in zip(axes, (36, 22, 24), strict=True)) < 12**2
    prepared = prepare(Volume(image[None], geometry), grid(1.5, 1.5, 1.5), ball.astype(np.int16))
    one_hot = np.stack([prepared.label == 0, prepared.label == 1]).astype(np.float32)
    found = to_sitk(restored(prepared.placement, one_hot), geometry)
    reference = to_sitk(ball.astype(np.uint8), geometry)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(reference, found)
    assert overlap.GetDiceCoefficient() > 0.93
    shapes = sitk.LabelShapeStatisticsImageFilter()
    centres = []
    for item in (reference, found):
        shapes.Execute(item)
        centres.append(np.array(shapes.GetCentroid(1)))
    assert np.linalg.norm(centres[0] - centres[1]) < 0.3


def test_the_mask_travels_as_a_label_and_has_its_holes_filled():
    image = np.zeros((1, 12, 12, 12), np.float32)
    image[0, 2:10, 2:10, 2:10] = np.random.default_rng(0).random((8, 8, 8)) + 1
    image[0, 2, 2, 2] = 0  # outside: a corner of the crop
    image[0, 5, 5, 5] = 0  # a hole: inside
    label = np.zeros((12, 12, 12), np.int16)
    label[4:6, 4:6, 4:6] = 1
    prepared = prepare(Volume(image, Geometry((12, 12, 12), (1.0, 1.0, 1.0))), grid(1.0, 1.0, 1.0, masked=True), label)
    expected = scipy.ndimage.binary_fill_holes(image[0] != 0)[2:10, 2:10, 2:10]
    assert np.array_equal(prepared.label != OUTSIDE, expected)
    assert not prepared.image[0][~expected].any()
    assert prepared.image[0][expected].mean() == pytest.approx(0, abs=1e-5)


def test_an_all_zero_image_is_kept_whole():
    case = Volume(np.zeros((1, 4, 5, 6), np.float32), Geometry((4, 5, 6), (1.0, 1.0, 1.0)))
    prepared = prepare(case, grid(1.0, 1.0, 1.0, masked=True), np.zeros((4, 5, 6), np.int16))
    assert prepared.image.shape == (1, 4, 5, 6)
    assert not prepared.image.any()


def resized(array, shape, order):
    return skimage.transform.resize(array.astype(np.float64), shape, order=order, mode="edge", anti_aliasing=False)


@settings(max_examples=40)
@given(st.tuples(*[st.integers(1, 20)] * 3), st.tuples(*[st.floats(0.3, 5)] * 3), st.integers(0, 1000))
def test_labels_on_their_own_grid_come_back_identical_from_every_preparation(shape, spacing, seed):
    case, rng = volume(shape, spacing, seed), np.random.default_rng(seed)
    label = rng.integers(0, 4, shape).astype(np.int16)
    prepared = prepare(case, grid(*spacing, preparation=AS_NNUNET), label)
    one_hot = np.stack([prepared.label == index for index in range(4)]).astype(np.float32)
    assert np.array_equal(restored(prepared.placement, one_hot), label)


def test_normalised_first_thick_slices_are_resampled_one_by_one(shared_data):
    """A real heart, 10 mm between slices: to 4 x 1 x 1 mm by NumPy and scikit-image."""
    folder = shared_data / "Dataset027_Cardiac"
    image = read_image(folder / "imagesTr" / "A_A0S9V9_ED_0000.nii.gz")
    label = read_label(folder / "labelsTr" / "A_A0S9V9_ED.nii.gz").array.astype(np.int16)
    prepared = prepare(image, grid(4.0, 1.0, 1.0, preparation=AS_NNUNET), label)
    crop, shape = prepared.placement.crop, prepared.placement.shape
    values = image.array[0].astype(np.float64)[crop.to_slices()]
    values = (values - values.mean()) / values.std()
    rows = np.floor((np.arange(shape[0]) + 0.5) * crop.shape[0] / shape[0]).astype(int)
    expected = np.stack([resized(values[row], shape[1:], 3) for row in rows])
    assert prepared.placement.coarse_axis == 0
    # The matrices are in single precision; what they give is fed to networks in half precision.
    assert np.abs(prepared.image[0] - expected).max() < 1e-4 * np.ptp(values)
    assert set(np.unique(prepared.label)) == {OUTSIDE, *np.unique(label)}  # air is zero here and there
    logits = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    back = on_image_grid(prepared.placement, logits)
    rows = np.floor((np.arange(crop.shape[0]) + 0.5) * shape[0] / crop.shape[0]).astype(int)
    for channel, result in zip(logits, back, strict=True):
        assert np.abs(result - np.stack([resized(channel[row], crop.shape[1:], 1) for row in rows])).max() < 1e-5


def test_the_way_back_has_its_own_axis():
    """The spacing that is left decides first: 5 mm along z on the way there, along x on the way back."""
    case = volume((4, 20, 20), (5.0, 1.0, 1.0))
    prepared = prepare(case, grid(1.0, 1.0, 5.0, preparation=AS_NNUNET))
    assert prepared.placement.coarse_axis == 2
    assert np.array_equal(prepared.image[0][0], prepared.image[0][4])  # one slice of the image, five times
    back = on_image_grid(prepared.placement, np.random.default_rng(0).normal(size=(1, 20, 20, 4)).astype(np.float32))
    assert np.array_equal(back[..., 0], back[..., 4])
    assert prepare(case, grid(1.0, 1.0, 5.0)).placement.coarse_axis is None


def test_an_axis_may_keep_its_own_spacing():
    prepared = prepare(volume((4, 20, 20), (7.0, 1.0, 1.0)), grid(None, 2.0, 2.0, preparation=AS_NNUNET))
    assert prepared.image.shape == (1, 4, 10, 10)
    assert prepared.placement.coarse_axis == 0


def masked_case():
    """A block with a hole in a nonzero mask of which a corner of the crop is not part, and labels everywhere."""
    image = np.zeros((1, 12, 12, 12), np.float32)
    image[0, 2:10, 2:10, 2:10] = np.random.default_rng(0).random((8, 8, 8)) + 1
    image[0, 2:5, 2:5, 2:5] = 0
    image[0, 7, 7, 7] = 0
    label = np.zeros((12, 12, 12), np.int16)
    label[3, 3, 3], label[4, 4, 4], label[6:9, 6:9, 6:9] = 1, IGNORED, 2
    return Volume(image, Geometry((12, 12, 12), (1.0, 1.0, 1.0))), label


def test_normalised_first_statistics_are_those_of_the_mask():
    case, _ = masked_case()
    prepared = prepare(case, grid(0.5, 0.5, 0.5, masked=True, preparation=AS_NNUNET))
    crop = case.array[0, 2:10, 2:10, 2:10].astype(np.float64)
    mask = scipy.ndimage.binary_fill_holes(crop)
    expected = np.where(mask, (crop - crop[mask].mean()) / crop[mask].std(), 0)
    assert np.abs(prepared.image[0] - resized(expected, (16, 16, 16), 3)).max() < 1e-4 * np.ptp(expected)


@pytest.mark.parametrize("preparation", [AS_PAPER, AS_NNUNET])
def test_only_background_is_outside_of_the_mask(preparation):
    case, label = masked_case()
    prepared = prepare(case, grid(1.0, 1.0, 1.0, masked=True, preparation=preparation), label)
    expected = label[2:10, 2:10, 2:10].copy()
    corner = expected[:3, :3, :3]
    corner[corner == 0] = OUTSIDE
    assert np.array_equal(prepared.label, expected)


def test_normalised_first_outside_is_a_label_while_labels_are_resampled():
    """At the mask's border background and outside share what is not labelled, and a label of less than half wins."""
    case, _ = masked_case()
    label = np.random.default_rng(1).integers(0, 2, (12, 12, 12)).astype(np.int16)
    prepared = prepare(case, grid(0.7, 0.7, 0.7, masked=True, preparation=AS_NNUNET), label)
    marked = label[2:10, 2:10, 2:10].copy()
    corner = marked[:3, :3, :3]
    corner[corner == 0] = OUTSIDE
    values = np.unique(marked)
    shares = np.stack([resized(marked == value, prepared.label.shape, 1) for value in values])
    ranked = np.sort(shares, axis=0)
    clear = ranked[-1] - ranked[-2] > 1e-9
    assert clear.mean() > 0.9
    assert ((prepared.label == 1) & (shares[-1] < 0.5) & clear).any()
    assert np.array_equal(prepared.label[clear], values[shares.argmax(axis=0)][clear])


def test_normalised_first_values_stay_in_their_range():
    """A spline rings at edges; what was clipped stays clipped."""
    image = np.zeros((1, 16, 16, 16), np.float32)
    image[0, 4:12, 4:12, 4:12] = 1000.0
    image[0, 0, 0, 0] = image[0, -1, -1, -1] = -5.0  # nothing is cropped
    clipped = ClipAndScale(lower=-5.0, upper=300.0, mean=100.0, standard_deviation=50.0)
    wanted = Grid(spacing_mm=(0.8, 0.8, 0.8), normalization=(clipped,), preparation=AS_NNUNET)
    prepared = prepare(Volume(image, Geometry((16, 16, 16), (1.0, 1.0, 1.0))), wanted)
    assert prepared.image.max() == pytest.approx(4.0)
    assert prepared.image.min() == pytest.approx(-2.1)


def test_holes_of_a_single_slice():
    """Filled in our way; nnU-Net v2 fills in three dimensions only, where they are open."""
    image = np.ones((1, 1, 9, 9), np.float32)
    image[0, 0, 4, 4] = 0
    case, label = Volume(image, Geometry((1, 9, 9), (1.0, 1.0, 1.0))), np.zeros((1, 9, 9), np.int16)
    for preparation, value in ((AS_PAPER, 0), (AS_NNUNET, OUTSIDE)):
        prepared = prepare(case, grid(1.0, 1.0, 1.0, masked=True, preparation=preparation), label)
        assert prepared.label[0, 4, 4] == value


# Stored along other axes

codes = st.builds(
    lambda order, signs: "".join(("RL", "AP", "IS")[axis][sign] for axis, sign in zip(order, signs, strict=True)),
    st.permutations(range(3)),
    st.tuples(*[st.integers(0, 1)] * 3),
)


@pytest.mark.parametrize("preparation", [AS_PAPER, AS_NNUNET])
@settings(max_examples=30)
@given(wanted=codes, seed=st.integers(0, 1000), direction=st.sampled_from([np.eye(3), np.diag([-1.0, -1, 1]), OBLIQUE]))
def test_a_case_is_prepared_as_if_simpleitk_had_turned_it(preparation, wanted, seed, direction):
    """And its label map comes back along the axes of its own file."""
    rng = np.random.default_rng(seed)
    shape, spacing = (7, 11, 9), (3.1, 1.2, 0.8)
    geometry = Geometry(shape, spacing, (12.0, -30.0, 55.0), tuple(float(value) for value in np.ravel(direction)))
    image = rng.random((1, *shape)).astype(np.float32) + 0.1
    image[0, :2] = image[0, :, :, 6:] = 0  # some cropping
    label = rng.integers(0, 3, shape).astype(np.int16)
    turned = [sitk.DICOMOrient(to_sitk(array, geometry), wanted) for array in (image[0], label)]
    there = Volume(
        sitk.GetArrayFromImage(turned[0])[None],
        Geometry(
            turned[0].GetSize()[::-1], turned[0].GetSpacing()[::-1], turned[0].GetOrigin(), turned[0].GetDirection()
        ),
    )
    plain = grid(2.0, 1.5, 1.1, masked=True, preparation=preparation)
    expected = prepare(there, plain, sitk.GetArrayFromImage(turned[1]))
    oriented = plain.model_copy(update={"orientation": wanted})
    found = prepare(Volume(image, geometry), oriented, label)
    assert np.array_equal(found.image, expected.image)
    assert np.array_equal(found.label, expected.label)
    assert found.image.flags.c_contiguous
    assert found.placement.geometry == geometry
    values = np.random.default_rng(seed).random((3, *found.placement.shape), np.float32)
    segmented = to_sitk(restored(expected.placement, values), there.geometry)
    back = sitk.DICOMOrient(segmented, geometry.orientation)
    assert np.array_equal(restored(found.placement, values), sitk.GetArrayFromImage(back))


@settings(max_examples=40)
@given(st.tuples(*[st.integers(1, 9)] * 3), codes, codes, st.integers(0, 1000))
def test_labels_come_back_identical_from_any_axes(shape, own, wanted, seed):
    rng = np.random.default_rng(seed)
    direction = sitk.DICOMOrientImageFilter.GetDirectionCosinesFromOrientation(own)
    case = volume(shape, (3.0, 2.0, 1.0), seed, direction=tuple(direction))
    label = rng.integers(0, 4, shape).astype(np.int16)
    prepared = prepare(case, grid(None, None, None).model_copy(update={"orientation": wanted}), label)
    one_hot = np.stack([prepared.label == index for index in range(4)]).astype(np.float32)
    assert np.array_equal(restored(prepared.placement, one_hot), label)


def test_an_image_that_does_not_say_its_axes_is_prepared_as_it_is():
    oriented = grid(1.0, 1.0, 1.0).model_copy(update={"orientation": "PSR"})
    for unknown in ({"oriented": False}, {"dimension": 2}):
        case = volume((1, 5, 6), **unknown)
        prepared = prepare(case, oriented)
        assert prepared.placement.turn is None
        assert np.array_equal(prepared.image, prepare(case, grid(1.0, 1.0, 1.0)).image)

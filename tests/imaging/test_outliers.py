"""Cases that are unlike the others are named, and sound datasets are left in peace."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from voxfit.core.errors import Problem
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.outliers import CaseFacts, facts_of, find_outliers

SHAPE = (24, 40, 40)

Array = NDArray[np.float32]


def image_of(seed: int) -> Array:
    """Noise about 100 around a ball of 300."""
    return np.random.default_rng(seed).normal(0, 20, SHAPE).astype(np.float32) + 100 + 200 * label_of()


def label_of() -> NDArray[np.int16]:
    z, y, x = np.indices(SHAPE) - np.array(SHAPE)[:, None, None, None] // 2
    return ((z / 6) ** 2 + (y / 9) ** 2 + (x / 9) ** 2 < 1).astype(np.int16)


def outliers(
    images: Sequence[Array] | None = None,
    spacings: dict[int, tuple[float, ...]] | None = None,
    *,
    absolute: bool = False,
    count: int = 5,
) -> list[Problem]:
    """Of cases 0, 1, ...; images, or the spacings of some, may be given."""
    images = images or [image_of(number) for number in range(count)]
    cases = {}
    for number, image in enumerate(images):
        geometry = Geometry(image.shape, (spacings or {}).get(number, (2.0, 1.0, 1.0)))
        label = label_of() if image.shape == SHAPE else np.ones(image.shape, np.int16)
        cases[f"case {number}"] = facts_of(image[None], label, geometry)
    return find_outliers(cases, ["MR"], [absolute])


def test_cases_that_are_alike_are_not_named() -> None:
    assert outliers() == []
    assert outliers(absolute=True) == []


@pytest.mark.parametrize("spacing", [(0.002, 0.001, 0.001), (2000.0, 1000.0, 1000.0)])
def test_a_spacing_in_another_unit_is_an_error_of_its_case(spacing: tuple[float, ...]) -> None:
    (problem,) = outliers(spacings={3: spacing})
    assert problem.fatal
    assert problem.where == problem.case == "case 3"
    assert "2 x 1 x 1 mm" in problem.what
    assert ("24 x 40 x 40 voxels would become 1 x 1 x 1." in problem.what) == (spacing[0] < 1)


@pytest.mark.parametrize("spacing", [(0.2, 0.1, 0.1), (20.0, 10.0, 10.0), (20.0, 1.0, 1.0), (0.005, 1.0, 1.0)])
def test_a_spacing_ten_times_off_is_a_warning(spacing: tuple[float, ...]) -> None:
    (problem,) = outliers(spacings={0: spacing})
    assert not problem.fatal
    assert f"its spacing is {spacing[0]:g} x {spacing[1]:g} x {spacing[2]:g} mm" in problem.what


@pytest.mark.parametrize("spacing", [(1.0, 2.0, 1.0), (1.0, 1.0, 2.0), (5.0, 0.6, 0.6), (0.8, 0.8, 0.8)])
def test_other_scanners_and_other_axes_are_not_named(spacing: tuple[float, ...]) -> None:
    assert outliers(spacings={0: spacing}) == []


def test_an_extent_far_from_the_others_is_a_warning() -> None:
    (problem,) = outliers([image_of(0)[:2], *map(image_of, range(1, 5))])
    assert not problem.fatal
    assert "extends over 4 x 40 x 40 mm, most cases over about 48 x 40 x 40 mm" in problem.what


def test_slices_along_another_axis_are_not_named() -> None:
    cases = {}
    for number in range(5):
        axis = 0 if number else 2
        shape, spacing = np.roll((10, 64, 64), axis), np.roll((12.0, 1.0, 1.0), axis)
        geometry = Geometry(tuple(map(int, shape)), tuple(map(float, spacing)))
        image = np.random.default_rng(number).random((1, *geometry.shape), np.float32)
        cases[f"case {number}"] = facts_of(image, np.ones(geometry.shape, np.int16), geometry)
    assert find_outliers(cases, ["MR"], [False]) == []


def test_an_axis_far_too_long_is_named_whichever_it_is() -> None:
    for spacing in ((20.0, 1.0, 1.0), (2.0, 10.0, 1.0), (2.0, 1.0, 10.0)):
        assert len(outliers(spacings={4: spacing})) == 1


def test_two_cases_cannot_be_compared() -> None:
    assert outliers(spacings={1: (0.002, 0.001, 0.001)}, count=2) == []


@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_the_scale_of_images_that_are_normalised_each_for_itself_means_nothing(factor: float) -> None:
    assert outliers([image_of(0) * np.float32(factor), *map(image_of, range(1, 5))]) == []


def test_voxels_that_leave_the_others_no_contrast_are_a_warning() -> None:
    image = image_of(2)
    image[3, 4, 5] = 1e6
    (problem,) = outliers([image_of(0), image_of(1), image, image_of(3), image_of(4)])
    assert not problem.fatal
    assert (problem.where, problem.what[:3]) == ("case 2", "MR:")
    z_scores = (image - image.mean()) / image.std()
    low, high = np.percentile(z_scores, (5, 95))
    assert f"within {high - low:.2g} standard deviations" in problem.what


def test_background_of_zeros_counts_nowhere() -> None:
    """A brain that was stripped of its skull, in a volume nearly empty."""
    images = [image_of(number) * label_of() for number in range(5)]
    assert outliers([np.asarray(image, np.float32) for image in [*images[:4], image_of(4)]]) == []


@pytest.mark.parametrize("change", [lambda image: image + 2048, lambda image: image / 4000], ids=["offset", "scale"])
def test_ct_in_other_units_is_a_warning(change: Callable[[Array], Array]) -> None:
    images = [change(image_of(0)), *map(image_of, range(1, 5))]
    (problem,) = outliers(images, absolute=True)
    assert not problem.fatal
    assert problem.where == "case 0"
    assert f"median {np.median(images[0][label_of() > 0]):.4g}" in problem.what


def test_contrast_agents_are_no_other_units() -> None:
    images = [image_of(0) + 80, image_of(1) - 80, *map(image_of, range(2, 6))]
    assert outliers([np.asarray(image, np.float32) for image in images], absolute=True) == []


def test_cases_without_foreground_or_contrast_are_compared_in_size_only() -> None:
    empty = facts_of(np.zeros((1, *SHAPE), np.float32), np.zeros(SHAPE, np.int16), Geometry(SHAPE, (2.0, 1.0, 1.0)))
    cases = {f"case {number}": empty for number in range(4)}
    for absolute in (False, True):
        assert find_outliers(cases, ["CT"], [absolute]) == []


def test_pictures_are_compared_along_their_own_axes() -> None:
    def facts(size: float) -> CaseFacts:
        geometry = Geometry((1, 40, 40), (1.0, size, size), dimension=2)
        image = np.random.default_rng(0).random((1, 1, 40, 40), np.float32)
        return facts_of(image, np.ones((1, 40, 40), np.int16), geometry)

    cases = {f"case {number}": facts(1.0 if number else 0.001) for number in range(4)}
    (problem,) = find_outliers(cases, ["EM"], [False])
    assert problem.fatal
    assert "40 x 40 voxels would become 1 x 1." in problem.what

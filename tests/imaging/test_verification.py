from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import io

from voxfit.core.errors import DatasetError, Problem
from voxfit.imaging.dataset import Dataset
from voxfit.imaging.files import Case
from voxfit.imaging.labels import Label, Labels
from voxfit.imaging.verification import read_case_image, read_labelled, verify_case, verify_folds

SHAPE = (5, 6, 7)
LABELS = Labels(classes=(Label(name="head", value=1), Label(name="tail", value=2)))
NAME = "case_042"

Affine = NDArray[np.float64]


def nifti(path: Path, array: NDArray[Any], affine: Affine | None = None) -> str:
    """Write (z, y, x) voxels with nibabel; channels come first."""
    nib.save(nib.Nifti1Image(array.transpose(), np.eye(4) if affine is None else affine), path)
    return str(path)


def intensities(shape: tuple[int, ...] = SHAPE) -> NDArray[np.float32]:
    return np.random.default_rng(0).random(shape, np.float32)


def labelled(values: tuple[int, ...] = (0, 1, 2), shape: tuple[int, ...] = SHAPE) -> NDArray[np.uint8]:
    return np.resize(np.array(values, np.uint8), shape)


@pytest.fixture
def case(tmp_path: Path) -> Callable[..., Case]:
    """Builds a case of one or more image files."""

    def build(
        images: list[NDArray[Any]] | None = None,
        label: NDArray[Any] | None = None,
        affines: tuple[Affine | None, Affine | None] = (None, None),
    ) -> Case:
        files = [
            nifti(tmp_path / f"image_{number}.nii.gz", image, affines[0])
            for number, image in enumerate(images or [intensities()])
        ]
        return Case(
            name=NAME,
            images=tuple(files),
            label=nifti(tmp_path / "label.nii.gz", labelled() if label is None else label, affines[1]),
        )

    return build


def the_problem(case: Case, channels: int = 1, labels: Labels = LABELS) -> Problem:
    """The only problem of a case; it names the case and the remedy."""
    problems = verify_case((case, channels, labels))[0]
    assert len(problems) == 1
    assert NAME in problems[0].where
    assert problems[0].remedy
    volume, same = read_labelled(case, channels, labels)
    assert same == problems
    assert (volume is None) == problems[0].fatal
    return problems[0]


def test_a_sound_case(case: Callable[..., Case]) -> None:
    sound = case()
    assert verify_case((sound, 1, LABELS))[0] == []
    volume, _ = read_labelled(sound, 1, LABELS)
    assert volume is not None
    np.testing.assert_array_equal(volume.image, intensities()[None])
    np.testing.assert_array_equal(volume.label, labelled())
    assert (volume.image.dtype, volume.label.dtype) == (np.float32, np.int16)
    assert volume.geometry.shape == SHAPE


def test_channels_are_stacked_in_order(case: Callable[..., Case]) -> None:
    first, second = intensities(), -intensities()
    np.testing.assert_array_equal(read_case_image(case([first, second])).array, np.stack([first, second]))
    np.testing.assert_array_equal(read_case_image(case([np.stack([first, second])])).array, [first, second])


def test_shapes_that_differ(case: Callable[..., Case]) -> None:
    problem = the_problem(case(label=labelled(shape=(5, 6, 8))))
    assert problem.fatal
    assert "5 x 6 x 7" in problem.what
    assert "5 x 6 x 8" in problem.what
    assert "label.nii.gz" in problem.remedy


def test_transposed_labels_are_of_another_shape(case: Callable[..., Case]) -> None:
    assert the_problem(case(label=labelled(shape=SHAPE[::-1]))).fatal


@pytest.mark.parametrize(
    ("values", "words"),
    [((0, 1, 7), "the value 7,"), ((0, 3, 7), "the values 3, 7,"), ((9,), "the value 9,")],
)
def test_values_that_nobody_declared(case: Callable[..., Case], values: tuple[int, ...], words: str) -> None:
    problem = the_problem(case(label=labelled(values)))
    assert problem.fatal
    assert words in problem.what
    assert "0, 1, 2" in problem.what
    assert "label.nii.gz" in problem.remedy


def test_negative_values_are_undeclared(case: Callable[..., Case]) -> None:
    assert "the value -1," in the_problem(case(label=np.full(SHAPE, -1, np.int16))).what


def test_values_with_gaps_become_indices(case: Callable[..., Case]) -> None:
    labels = Labels(classes=(Label(name="a", value=3), Label(name="b", value=7), Label(name="c", value=200)))
    sound = case(label=labelled((0, 200, 3, 7)))
    assert verify_case((sound, 1, labels))[0] == []
    volume, _ = read_labelled(sound, 1, labels)
    assert volume is not None
    np.testing.assert_array_equal(volume.label, labelled((0, 3, 1, 2)))


def test_an_empty_label_is_a_warning(case: Callable[..., Case]) -> None:
    problem = the_problem(case(label=labelled((0,))))
    assert not problem.fatal
    assert "empty" in problem.what


def test_a_constant_image_is_a_warning(case: Callable[..., Case]) -> None:
    problem = the_problem(case([np.full(SHAPE, 5.0, np.float32)]))
    assert not problem.fatal
    assert "equal" in problem.what


def moved(**changes: float) -> Affine:
    affine = np.diag([0.5, 1.0, 2.0, 1.0])
    affine[0, 3] += changes.get("x", 0)
    affine[2, 2] *= changes.get("z_spacing", 1)
    affine[0, 0] *= changes.get("flip", 1)
    return affine


@pytest.mark.parametrize(
    ("change", "gap"),
    [
        ({"x": 1.0}, 1.0 / 0.5),
        ({"z_spacing": 1.5}, 4 * 2.0 * 0.5 / 0.5),
        ({"flip": -1}, 6 * 0.5 * 2 / 0.5),
        ({"x": 1e-5}, 0),
        ({"z_spacing": 1 + 1e-5}, 0),
    ],
    ids=str,
)
def test_headers_that_place_the_label_elsewhere_are_a_warning(
    case: Callable[..., Case], change: dict[str, float], gap: float
) -> None:
    suspect = case(affines=(moved(), moved(**change)))
    if gap:
        problem = the_problem(suspect)
        assert not problem.fatal
        assert f"{gap:.3g} voxels apart" in problem.what
    else:
        assert verify_case((suspect, 1, LABELS))[0] == []
    volume, _ = read_labelled(suspect, 1, LABELS)
    assert volume is not None
    np.testing.assert_allclose(volume.geometry.spacing_mm, (2.0, 1.0, 0.5))


@pytest.mark.parametrize(("files", "channels"), [(1, 2), (2, 1), (3, 2)])
def test_the_number_of_channels(case: Callable[..., Case], files: int, channels: int) -> None:
    problem = the_problem(case([intensities()] * files), channels)
    assert problem.fatal
    assert f"{files} channels" in problem.what
    assert f"{channels} are named" in problem.what


def test_channels_of_another_shape(case: Callable[..., Case]) -> None:
    problem = the_problem(case([intensities(), intensities((5, 6, 8))]), 2)
    assert problem.fatal
    assert "image_1.nii.gz" in problem.where
    assert "5 x 6 x 8" in problem.what


def test_headers_that_place_a_channel_elsewhere_are_a_warning(case: Callable[..., Case], tmp_path: Path) -> None:
    suspect = case([intensities(), intensities()])
    nifti(tmp_path / "image_1.nii.gz", intensities(), np.diag([1.0, 1.0, 3.0, 1.0]))
    problem = the_problem(suspect, 2)
    assert not problem.fatal
    assert "image_1.nii.gz" in problem.where
    assert "8 voxels" in problem.what  # the last of five slices stands at 12 mm instead of 4
    np.testing.assert_array_equal(read_case_image(suspect).geometry.spacing_mm, (1.0, 1.0, 1.0))


def test_image_and_label_faults_come_together(case: Callable[..., Case], tmp_path: Path) -> None:
    broken = case()
    for name in ("image_0", "label"):
        path = tmp_path / f"{name}.nii.gz"
        path.write_bytes(path.read_bytes()[:-20])
    problems = verify_case((broken, 1, LABELS))[0]
    assert [problem.fatal for problem in problems] == [True, True]
    for problem, name in zip(problems, ("image_0", "label"), strict=True):
        assert NAME in problem.where
        assert name in problem.where
        assert "damaged" in problem.what


def test_a_case_without_a_label_file(case: Callable[..., Case]) -> None:
    for label in (None, "/nowhere/label.nii.gz"):
        assert the_problem(case().model_copy(update={"label": label})).fatal


def test_pictures_are_cases(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (20, 30)).astype(np.uint8)
    io.imsave(tmp_path / "i.png", image, check_contrast=False)
    io.imsave(tmp_path / "l.png", image // 100, check_contrast=False)
    case = Case(name=NAME, images=(str(tmp_path / "i.png"),), label=str(tmp_path / "l.png"))
    assert verify_case((case, 1, LABELS))[0] == []
    volume, _ = read_labelled(case, 1, LABELS)
    assert volume is not None
    assert volume.geometry.dimension == 2
    np.testing.assert_array_equal(volume.label[0], image // 100)


def test_an_image_that_is_read_alone_has_as_many_channels_as_it_has(case: Callable[..., Case]) -> None:
    assert len(read_case_image(case([intensities(), intensities()])).array) == 2


def test_errors_of_channels_are_raised_where_an_image_is_read_alone(case: Callable[..., Case]) -> None:
    with pytest.raises(DatasetError, match="the channel has the shape"):
        read_case_image(case([intensities(), intensities()[1:]]))


@pytest.mark.parametrize(
    ("groups", "folds", "fatal"),
    [
        ([], 5, [True]),
        (["a"], 5, [True]),
        (["a", "a", "a"], 5, [True]),
        (["a", "b"], 5, [False]),
        (["a", "b", "c", "d", "a"], 5, [False]),
        (["", "", "", "", ""], 5, []),
        (["a", "b", "c", "d", "e", "e"], 5, []),
        (["a", "b"], 2, []),
    ],
)
def test_folds_need_cases_of_different_groups(
    msd: Callable[..., Path], groups: list[str], folds: int, fatal: list[bool]
) -> None:
    cases = tuple(Case(name=f"case {number}", images=("x",), group=group) for number, group in enumerate(groups))
    problems = verify_folds(replace(Dataset.open(msd()), cases=cases), folds)
    assert [problem.fatal for problem in problems] == fatal


@pytest.mark.parametrize(
    ("name", "number"),
    [("Task04_Hippocampus", 6), ("Dataset027_Cardiac", 4), ("Task01_BrainTumour6", 1), ("Dataset120_Membrane2D", 4)],
)
def test_real_cases_are_sound(shared_data: Path, name: str, number: int) -> None:
    dataset = Dataset.open(shared_data / name)
    for case in dataset.cases[:number]:
        volume, problems = read_labelled(case, len(dataset.channel_names), dataset.labels)
        assert problems == []
        assert volume is not None
        assert volume.image.shape == (len(dataset.channel_names), *volume.label.shape)
        assert volume.geometry.dimension == (2 if "2D" in name else 3)
        assert 0 < volume.label.max() < dataset.labels.count

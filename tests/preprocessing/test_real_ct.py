"""Real CT volumes against NumPy and scikit-image on all voxels."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import skimage.transform

from voxfit.core.parallel import LocalExecutor
from voxfit.core.progress import Listener
from voxfit.imaging.dataset import Dataset
from voxfit.imaging.files import Case
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.labels import Label, Labels
from voxfit.imaging.volume import Volume, read_image, read_label
from voxfit.imaging.writing import write_image, write_label
from voxfit.planning.fingerprint import resampled_shape
from voxfit.planning.planners.paper import make_plan
from voxfit.preprocessing.case import prepare
from voxfit.preprocessing.resampling import resample
from voxfit.running.cases import measure_dataset

NAMES = ("chaos_ct_001", "spleen_2")


@pytest.fixture(scope="module")
def cts(shared_data):
    folder = shared_data / "ct_cases"
    cases = tuple(
        Case(name=name, images=(str(folder / f"{name}_image.nii.gz"),), label=str(folder / f"{name}_label.nii.gz"))
        for name in NAMES
    )
    return Dataset(folder, "ct", ("CT",), Labels(classes=(Label(name="organ", value=1),)), cases)


def foreground(dataset):
    parts = []
    for case in dataset.cases:
        image, label = read_image(Path(case.images[0])), read_label(Path(case.label))
        parts.append(image.array[0][label.array > 0].astype(np.float64))
    return np.concatenate(parts)


def test_normalisation_is_numpys_over_all_foreground_voxels(cts):
    plan = make_plan(measure_dataset(cts, Listener(), LocalExecutor(1)))
    values = foreground(cts)
    low, high = np.percentile(values, [0.5, 99.5])
    for case in cts.cases:
        volume = read_image(Path(case.images[0]))
        # The two are stored along other axes: the paper's rules are applied to what SimpleITK makes of them.
        turned = sitk.DICOMOrient(sitk.ReadImage(case.images[0]), plan.orientation)
        grid = plan.grid("3d").model_copy(update={"spacing_mm": turned.GetSpacing()[::-1]})
        prepared = prepare(volume, grid)
        expected = (np.clip(sitk.GetArrayFromImage(turned), low, high) - values.mean()) / values.std()
        box = prepared.placement.crop.to_slices()
        assert prepared.image[0].shape == expected[box].shape
        assert np.abs(prepared.image[0] - expected[box]).max() < 1e-5


def test_resampling_to_3_mm_and_back_is_scikit_images(cts):
    case = cts.cases[1]
    volume = read_image(Path(case.images[0]))
    image, geometry = volume.array.astype(np.float32), volume.geometry
    shape = resampled_shape(geometry.shape, geometry.spacing_mm, (3.0, 3.0, 3.0))
    options = {"order": 3, "mode": "edge", "anti_aliasing": False, "preserve_range": True, "clip": False}
    there = resample(image, shape, order=3)
    expected = skimage.transform.resize(image[0].astype(np.float64), shape, **options)
    span = float(np.ptp(image))
    assert np.abs(there[0] - expected).max() < 1e-4 * span
    back = resample(there, geometry.shape, order=3)
    expected = skimage.transform.resize(expected, geometry.shape, **options)
    assert np.abs(back[0] - expected).max() < 1e-4 * span


def test_channels_of_different_kinds_keep_to_their_rules(tmp_path):
    """CT and PET in one case: one rule of the whole dataset, one of the image."""
    rng = np.random.default_rng(0)
    geometry = Geometry((6, 7, 8), (2.0, 1.0, 1.0))
    cases, values = [], []
    for number in range(3):
        ct = rng.integers(-1000, 1000, (6, 7, 8)).astype(np.int16)
        pet = rng.gamma(2, 1.0 + number, (6, 7, 8)).astype(np.float32)
        label = (rng.random((6, 7, 8)) < 0.3).astype(np.uint8)
        values.append(ct[label > 0].astype(np.float64))
        write_image(tmp_path / f"{number}_0000.nii.gz", ct, geometry)
        write_image(tmp_path / f"{number}_0001.nii.gz", pet, geometry)
        write_label(tmp_path / f"{number}_label.nii.gz", label, geometry)
        files = (str(tmp_path / f"{number}_0000.nii.gz"), str(tmp_path / f"{number}_0001.nii.gz"))
        cases.append(Case(name=str(number), images=files, label=str(tmp_path / f"{number}_label.nii.gz")))
    dataset = Dataset(tmp_path, "pet", ("CT", "PET"), Labels(classes=(Label(name="a", value=1),)), tuple(cases))
    plan = make_plan(measure_dataset(dataset, Listener(), LocalExecutor(1)))
    every = np.concatenate(values)
    ct, pet = (read_image(Path(path)).array[0] for path in cases[2].images)
    prepared = prepare(Volume(np.stack([ct, pet]), geometry), plan.grid("3d"))
    low, high = np.percentile(every, [0.5, 99.5])
    assert prepared.image[0] == pytest.approx((np.clip(ct, low, high) - every.mean()) / every.std(), abs=1e-5)
    assert prepared.image[1] == pytest.approx((pet - pet.mean()) / pet.std(), abs=1e-5)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from voxfit.core.errors import RecordError
from voxfit.imaging.dataset import Dataset
from voxfit.imaging.files import Case
from voxfit.imaging.geometry import Geometry
from voxfit.imaging.labels import Label, Labels
from voxfit.imaging.verification import LabelledVolume, read_labelled
from voxfit.planning.fingerprint import (
    CaseFingerprint,
    Fingerprint,
    Measurements,
    count_components,
    crop_box,
    is_ct,
    load_fingerprint,
    measure_case,
    resampled_shape,
    summarize,
)
from voxfit.planning.intensities import MOST_VALUES, Counts, Intensities, count, merge, restrict

LABELS = Labels(classes=(Label(name="a", value=1), Label(name="b", value=2)))


def volume(image: NDArray[Any], label: NDArray[Any], spacing: tuple[float, ...] = (3.0, 2.0, 1.0)) -> LabelledVolume:
    return LabelledVolume(image.astype(np.float32), label.astype(np.int16), Geometry(label.shape, spacing))


def dataset(channels: tuple[str, ...], labels: Labels = LABELS) -> Dataset:
    return Dataset(Path(), "Test", channels, labels, (Case(name="x", images=("x",)),))


def real_cases(folder: Path, number: int) -> tuple[Dataset, list[LabelledVolume]]:
    found = Dataset.open(folder)
    volumes = [read_labelled(case, len(found.channel_names), found.labels)[0] for case in found.cases[:number]]
    return found, [item for item in volumes if item is not None]


def no_second_pass(channel: int, uppers: tuple[int, ...]) -> Counts:
    raise AssertionError("one pass is enough")


def fingerprint_of(
    found: Dataset, volumes: list[LabelledVolume], names: tuple[str, ...], labels: Labels
) -> Fingerprint:
    """The fingerprint of cases in memory; a second pass walks over the same cases."""

    def refine(channel: int, uppers: tuple[int, ...]) -> Counts:
        parts = [restrict(item.image[channel][item.label > 0], uppers) for item in volumes]
        return merge([count(part, MOST_VALUES) for part in parts])

    return summarize(found, 3, Measurements(measure_case(item, names, labels) for item in volumes), refine)


def assert_statistics(found: Intensities | None, intensities: NDArray[Any]) -> None:
    """Against numpy on all intensities at once."""
    exact = intensities.astype(np.float64)
    assert found is not None
    assert found.voxels == exact.size
    expected = (*np.percentile(exact, [0.5, 99.5]), exact.mean(), exact.std())
    size = np.abs(exact).max()
    np.testing.assert_allclose(
        (found.percentile_00_5, found.percentile_99_5, found.mean, found.standard_deviation),
        expected,
        rtol=1e-6,
        atol=1e-6 * max(size, 1e-30),
    )


# Intensities

intensities = st.lists(
    hnp.arrays(
        np.float32,
        st.integers(0, 40),
        elements=st.sampled_from([-1024.0, 0.0, 40.0, 40.5]) | st.floats(-3e4, 3e4, width=32),
    ),
    min_size=1,
    max_size=4,
)


@given(intensities)
def test_statistics_are_those_of_all_foreground_voxels_together(parts: list[NDArray[np.float32]]) -> None:
    volumes = []
    for part in parts:
        # Foreground, of either class, at every second voxel; the others must not count.
        image = np.full((1, 1, 2, len(part) + 1), 1e6, np.float32)
        label = np.zeros((1, 2, len(part) + 1), np.int16)
        image[0, 0, 1, 1:] = part
        label[0, 1, 1:] = 1 + np.arange(len(part)) % 2
        volumes.append(volume(image, label))
    fingerprint = fingerprint_of(dataset(("CT",)), volumes, ("CT",), LABELS)
    together = np.concatenate(parts)
    if together.size:
        assert_statistics(fingerprint.intensities[0], together)
    else:
        assert fingerprint.intensities == (None,)


def test_only_ct_channels_are_measured_each_for_itself() -> None:
    random = np.random.default_rng(0)
    names = ("MRI", "CT", "PET", "low-dose ct")
    volumes = [volume(random.normal(0, 100, (4, 5, 6, 7)), random.integers(0, 3, (5, 6, 7))) for _ in range(3)]
    fingerprint = fingerprint_of(dataset(names), volumes, names, LABELS)
    for channel, name in enumerate(names):
        if name in ("CT", "low-dose ct"):
            together = np.concatenate([item.image[channel][item.label > 0] for item in volumes])
            assert_statistics(fingerprint.intensities[channel], together)
        else:
            assert fingerprint.intensities[channel] is None


@pytest.mark.parametrize("name", ["Task04_Hippocampus", "Dataset027_Cardiac"])
def test_statistics_of_real_cases(shared_data: Path, name: str) -> None:
    # The intensities of the hippocampi differ by four orders of magnitude between cases.
    found, volumes = real_cases(shared_data / name, 8)
    fingerprint = fingerprint_of(found, volumes, ("CT",), found.labels)
    assert fingerprint.intensities == (None,)
    as_ct = Dataset(found.folder, found.name, ("CT",), found.labels, found.cases)
    fingerprint = fingerprint_of(as_ct, volumes, ("CT",), found.labels)
    together = np.concatenate([item.image[0][item.label > 0] for item in volumes])
    assert_statistics(fingerprint.intensities[0], together)


def test_statistics_of_a_real_ct(shared_data: Path) -> None:
    folder = shared_data / "ct_cases"
    labels = Labels(classes=(Label(name="spleen", value=1),))
    case = Case(
        name="spleen_2",
        images=(str(folder / "spleen_2_image.nii.gz"),),
        label=str(folder / "spleen_2_label.nii.gz"),
    )
    item, problems = read_labelled(case, 1, labels)
    assert item is not None, problems
    fingerprint = fingerprint_of(dataset(("CT",), labels), [item], ("CT",), labels)
    spleen = item.image[0][item.label == 1]
    assert_statistics(fingerprint.intensities[0], spleen)
    # Hounsfield units: blood-filled tissue is a little denser than water.
    measured = fingerprint.intensities[0]
    assert measured is not None
    assert 0 < measured.mean < 200
    assert fingerprint.cases[0].spacing_mm == pytest.approx((5.0, 0.795, 0.795), abs=1e-3)


@pytest.mark.parametrize("name", ["CT", "ct", "Ct", "CT scan", "low-dose CT", "CT_venous", "PET/CT", "0 ct", "(CT)"])
def test_names_of_ct_channels(name: str) -> None:
    assert is_ct(name)


@pytest.mark.parametrize("name", ["MRI", "T1", "ctx", "Act", "direct", "PCT", "octet", "fraction", "c t", "", "PET"])
def test_names_of_other_channels(name: str) -> None:
    assert not is_ct(name)


# Shapes


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=4, max_dims=4, max_side=4),
        elements=st.sampled_from([0.0, 0.0, 0.0, 0.0, -1.0, 5.0]),
    )
)
def test_the_crop_keeps_what_is_nonzero_in_any_channel(image: NDArray[np.float32]) -> None:
    box = crop_box(image)
    places = np.argwhere((image != 0).any(0))
    if len(places):
        assert box.start == tuple(places.min(0).tolist())
        assert box.stop == tuple((places.max(0) + 1).tolist())
    else:
        assert box.shape == image.shape[1:]
    measured = measure_case(volume(image, np.zeros(image.shape[1:])), ("MRI",) * len(image), LABELS).geometry
    assert measured == CaseFingerprint(shape=box.shape, uncropped_shape=image.shape[1:], spacing_mm=(3.0, 2.0, 1.0))


def test_cropping_of_the_real_brains(shared_data: Path) -> None:
    found, volumes = real_cases(shared_data / "Task01_BrainTumour6", 3)
    fingerprint = fingerprint_of(found, volumes, found.channel_names, found.labels)
    cropped = 0
    for item, measured in zip(volumes, fingerprint.cases, strict=True):
        places = np.nonzero(item.image.any(axis=0))
        extent = tuple(int(np.ptp(along)) + 1 for along in places)
        assert measured.shape == extent
        assert measured.uncropped_shape == (155, 240, 240)
        cropped += int(np.prod(extent))
    assert fingerprint.size_after_cropping() == pytest.approx(cropped / (3 * 155 * 240 * 240), rel=1e-12)
    # "The nonzero box is 36 % of the volume", says the README of the data, of all six.
    assert fingerprint.size_after_cropping() == pytest.approx(0.36, abs=0.02)


spacing_values = st.floats(0.05, 20)


@given(
    st.tuples(*[st.integers(1, 600)] * 3),
    st.tuples(*[spacing_values] * 3),
    st.tuples(*[spacing_values] * 3),
)
def test_resampling_keeps_the_extent(
    shape: tuple[int, ...], spacing: tuple[float, ...], new_spacing: tuple[float, ...]
) -> None:
    assert resampled_shape(shape, spacing, spacing) == shape
    for size, old, new, found in zip(
        shape, spacing, new_spacing, resampled_shape(shape, spacing, new_spacing), strict=True
    ):
        assert found >= 1
        assert abs(found * new - size * old) <= new / 2 * (1 + 1e-9) or found == 1


def of_shapes(*shapes: tuple[int, ...], spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Fingerprint:
    return Fingerprint(
        dataset="Test",
        channel_names=("MRI",),
        labels=LABELS,
        cases=tuple(CaseFingerprint(shape=shape, uncropped_shape=shape, spacing_mm=spacing) for shape in shapes),
        intensities=(None,),
    )


def test_medians_are_per_axis_and_rounded_half_to_even() -> None:
    facts = of_shapes((3, 4, 10), (4, 5, 1))
    assert facts.median_shape_at((1.0, 1.0, 1.0)) == (4, 4, 6)  # of 3.5, 4.5, 5.5
    assert facts.median_shape_at((0.5, 2.0, 1.0)) == (7, 2, 6)  # of (6, 8), (2, 2) and (10, 1)
    mixed = Fingerprint.model_validate(
        facts.model_dump()
        | {
            "cases": tuple(
                CaseFingerprint(shape=(2, 2, 2), uncropped_shape=(2, 2, 2), spacing_mm=spacing)
                for spacing in ((1.0, 5.0, 2.0), (2.0, 1.0, 2.0), (9.0, 3.0, 4.0), (4.0, 4.0, 2.0))
            )
        }
    )
    assert mixed.median_spacing_mm() == (3.0, 3.5, 2.0)


# Components


@given(hnp.arrays(np.int16, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6), elements=st.integers(0, 3)))
def test_components_are_those_of_scipy_in_full_connectivity(label: NDArray[np.int16]) -> None:
    expected = tuple(int(ndimage.label(label == value, np.ones((3, 3, 3)))[1]) for value in (1, 2, 3))
    assert count_components(label, 4) == expected


@pytest.mark.parametrize("name", ["Task04_Hippocampus", "Dataset120_Membrane2D", "Task01_BrainTumour6"])
def test_components_of_real_labels(shared_data: Path, name: str) -> None:
    found, volumes = real_cases(shared_data / name, 2)
    for item in volumes:
        expected = [
            int(ndimage.label(item.label == value, np.ones((3, 3, 3)))[1]) for value in range(1, found.labels.count)
        ]
        assert list(count_components(item.label, found.labels.count)) == expected


def test_classes_of_one_component_where_they_are() -> None:
    labels = Labels(classes=tuple(Label(name=name, value=value) for value, name in enumerate("abcd", 1)))
    first, second = np.zeros((2, 1, 1, 9), np.int16)
    first[..., :7] = [[[1, 2, 2, 0, 3, 0, 3]]]
    second[..., :3] = [[[1, 1, 0]]]
    image = np.ones((1, 1, 1, 9))
    measured = [measure_case(volume(image, label), ("MRI",), labels) for label in (first, second)]
    assert [item.components for item in measured] == [(1, 1, 2, 0), (1, 0, 0, 0)]
    # 3 is in two pieces once, 4 is nowhere.
    found = summarize(dataset(("MRI",), labels), 3, Measurements(measured), no_second_pass)
    assert found.single_component_labels == (1, 2)


# Files


def test_a_fingerprint_survives_its_file(tmp_path: Path) -> None:
    facts = of_shapes((3, 4, 5), (9, 9, 9)).model_copy(
        update={
            "intensities": (
                Intensities(percentile_00_5=0.1, percentile_99_5=0.3, mean=0.2, standard_deviation=1 / 3, voxels=7),
            )
        }
    )
    facts.save(tmp_path / "f.json")
    assert load_fingerprint(tmp_path / "f.json") == facts


def test_published_geometries_are_read(decathlon: Path) -> None:
    path = decathlon / "Dataset001_BrainTumour.json"
    body = json.loads(path.read_text())
    facts = load_fingerprint(path)
    assert facts.channel_names == tuple(body["channel_names"][str(channel)] for channel in range(4))
    assert {label.name: label.value for label in facts.labels.classes} == {
        name: value for name, value in body["labels"].items() if value
    }
    assert [[list(case.shape), list(case.spacing_mm)] for case in facts.cases] == [
        [case["shape"], case["spacing"]] for case in body["cases_after_nonzero_crop"]
    ]
    assert facts.size_after_cropping() == pytest.approx(body["relative_size_after_cropping"], abs=0.005)


PUBLISHED = {
    "task": "X",
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "a": 1},
    "cases_after_nonzero_crop": [{"shape": [5, 6, 7], "spacing": [1.0, 1.0, 1.0]}],
    "relative_size_after_cropping": 1.0,
}


@pytest.mark.parametrize(
    "change",
    [
        {"task": ...},
        {"channel_names": ["MRI"]},
        {"channel_names": {"first": "MRI"}},
        {"labels": None},
        {"labels": {"a": "1"}},
        {"cases_after_nonzero_crop": []},
        {"cases_after_nonzero_crop": 3},
        {"cases_after_nonzero_crop": [{"shape": [5, 6, 7]}]},
        {"cases_after_nonzero_crop": [{"shape": [5, 6], "spacing": [1.0, 1.0, 1.0]}]},
        {"cases_after_nonzero_crop": [{"shape": [5, 6, 7], "spacing": [1.0, 1.0]}]},
        {"cases_after_nonzero_crop": [{"shape": [5, 0, 7], "spacing": [1.0, 1.0, 1.0]}]},
        {"cases_after_nonzero_crop": [{"shape": [float("inf"), 6, 7], "spacing": [1.0, 1.0, 1.0]}]},
        {"cases_after_nonzero_crop": [{"shape": [5, 6, 7], "spacing": [1.0, -1.0, 1.0]}]},
        {"cases_after_nonzero_crop": [{"shape": [5, 6, 7], "spacing": [1.0, float("nan"), 1.0]}]},
        {"relative_size_after_cropping": 0},
        {"relative_size_after_cropping": "all"},
        {"relative_size_after_cropping": [1.0, 1.0]},
    ],
    ids=str,
)
def test_unusable_published_geometries_are_named(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "published.json"
    path.write_text(json.dumps(PUBLISHED))
    assert load_fingerprint(path).cases[0].shape == (5, 6, 7)
    path.write_text(json.dumps({key: value for key, value in (PUBLISHED | change).items() if value is not ...}))
    with pytest.raises(RecordError, match="not a usable list") as caught:
        load_fingerprint(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"schema": "voxfit.plan/2"}, "schema"),
        ({"cases": []}, "cases"),
        ({"cases": [{"shape": [1, 2], "uncropped_shape": [1, 2, 3], "spacing_mm": [1, 1, 1]}]}, "cases.0.shape"),
        ({"cases": [{"shape": [1, 2, 3], "uncropped_shape": [1, 2, 3], "spacing_mm": [1, 0, 1]}]}, "spacing_mm.1"),
        ({"cases": [{"shape": [1, 2, 3], "spacing_mm": [1, 1, 1]}]}, "cases.0.uncropped_shape"),
        ({"intensities": []}, "intensities"),
        ({"intensities": [{"mean": 0.0}]}, "intensities.0.percentile_00_5"),
        ({"dimension": "3"}, "dimension"),
        ({"dimension": 4}, "dimension"),
    ],
    ids=str,
)
def test_an_unusable_fingerprint_is_named(tmp_path: Path, change: dict[str, Any], fragment: str) -> None:
    path = tmp_path / "fingerprint.json"
    path.write_text(json.dumps(json.loads(of_shapes((3, 4, 5)).to_json()) | change))
    with pytest.raises(RecordError) as caught:
        load_fingerprint(path)
    assert str(path) in str(caught.value)
    assert fragment in str(caught.value)


def test_a_missing_fingerprint_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no such file"):
        load_fingerprint(tmp_path / "absent.json")

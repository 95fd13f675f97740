"""Which digits at the end of a file's name number channels, and which are part of the name; and what is not used."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxfit.imaging.dataset import Dataset
from voxfit.imaging.files import group_channels, images_in
from voxfit.running.prediction import find_cases, overlooked

Build = Callable[..., Path]


def files(folder: Path, *names: str) -> Path:
    """Empty files: their names alone are read here."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def cases_of(names: list[str], channels: int, *, whole: bool = True) -> dict[str, list[str]]:
    """Names and files of the cases that are made of files, those without fault."""
    found = group_channels([Path(f"{name}.nii.gz") for name in names], channels, lambda _: whole)
    return {case.name: [path.removesuffix(".nii.gz") for path in case.images] for case in found if not case.fault}


@pytest.mark.parametrize(
    ("channels", "names", "expected"),
    [
        (1, ["a_0000"], {"a": ["a_0000"]}),
        (1, ["a_0000", "b_0000"], {"a": ["a_0000"], "b": ["b_0000"]}),
        (1, ["a_0000", "b"], {"a": ["a_0000"], "b": ["b"]}),
        (1, ["amos_1001", "amos_1002"], {"amos_1001": ["amos_1001"], "amos_1002": ["amos_1002"]}),
        (1, ["amos_1001"], {"amos_1001": ["amos_1001"]}),
        (1, ["amos_0000", "amos_0001"], {"amos_0000": ["amos_0000"], "amos_0001": ["amos_0001"]}),
        (1, ["a_0000", "b_0001"], {"a_0000": ["a_0000"], "b_0001": ["b_0001"]}),
        (1, ["a", "a_0000"], {"a": ["a"], "a_0000": ["a_0000"]}),
        (1, ["a_00000", "b_000", "_0000", "c0000"], {name: [name] for name in ("a_00000", "b_000", "_0000", "c0000")}),
        (2, ["b_0000", "a_0001", "a_0000", "b_0001"], {"a": ["a_0000", "a_0001"], "b": ["b_0000", "b_0001"]}),
        (2, ["a_0000", "a_0001", "c"], {"a": ["a_0000", "a_0001"], "c": ["c"]}),
        (2, ["a_1001", "a_1002"], {"a_1001": ["a_1001"], "a_1002": ["a_1002"]}),
        (2, ["a_1001", "b_0000", "b_0001"], {"a_1001": ["a_1001"], "b": ["b_0000", "b_0001"]}),
        (3, ["rgb_0000", "other_0000"], {"rgb": ["rgb_0000"], "other": ["other_0000"]}),
    ],
)
def test_the_rule_of_numbers(channels: int, names: list[str], expected: dict[str, list[str]]) -> None:
    assert cases_of(names, channels) == expected
    assert cases_of(names[::-1], channels) == expected


@pytest.mark.parametrize(
    ("channels", "names", "others"),
    [
        (2, ["x_0000", "x_0002"], "_0000, _0002"),
        (2, ["x_0001", "x_0002"], "_0001, _0002"),
        (2, ["x_1001", "x_1002"], "_1001, _1002"),
        (2, ["x_0000", "x_0001", "x_0002"], "_0000, _0001, _0002"),
        (3, ["x_0000", "x_0001"], "_0000, _0001"),
    ],
)
def test_other_numbers_of_files_that_hold_one_channel_are_a_fault(channels: int, names: list[str], others: str) -> None:
    good = [f"good_{number:04d}" for number in range(channels)]
    assert cases_of([*names, *good], channels, whole=False) == {"good": good}
    (bad,) = (case for case in group_channels([Path(f"{name}.mha") for name in names], channels, lambda _: False))
    assert bad.name == "x"
    assert bad.fault is not None
    assert f"has the channel files {others}" in bad.fault[0]


stems = st.from_regex(r"(a|b_1)(_000[0-3]|_100[12])?", fullmatch=True)


@given(st.lists(stems, max_size=8, unique=True), st.integers(1, 3), st.booleans())
def test_no_file_gets_lost_and_no_patients_are_merged(names: list[str], channels: int, whole: bool) -> None:
    found = group_channels([Path(f"{name}.nii.gz") for name in names], channels, lambda _: whole)
    assert sorted(path.removesuffix(".nii.gz") for case in found for path in case.images) == sorted(names)
    for case in found:
        if len(case.images) > 1 and case.fault is None:
            assert list(case.images) == [f"{case.name}_{number:04d}.nii.gz" for number in range(channels)]
    if channels == 1 and whole:
        assert max(Counter(case.name for case in found).values(), default=1) == 1
        assert all(len(case.images) == 1 and case.fault is None for case in found)


# Prediction


def predicted(*inputs: Path, channels: int = 1) -> list[str]:
    return [case.name for case in find_cases(inputs, channels)]


def test_names_of_single_channels_are_the_same_as_files_alone_together_and_in_a_folder(tmp_path: Path) -> None:
    folder = files(tmp_path, "x_0000.nii.gz", "y_0000.nii.gz")
    x, y = sorted(folder.iterdir())
    assert predicted(x) + predicted(y) == predicted(x, y) == predicted(folder) == ["x", "y"]


def test_patients_that_end_in_four_digits_stay_apart(tmp_path: Path) -> None:
    folder = files(tmp_path, "amos_1001.nii.gz", "amos_1002.nii.gz")
    one, two = sorted(folder.iterdir())
    assert predicted(one) + predicted(two) == predicted(one, two) == predicted(folder) == ["amos_1001", "amos_1002"]


def test_images_of_formats_that_are_not_read_are_named_at_prediction(tmp_path: Path) -> None:
    files(tmp_path / "photos", "a_0000.jpg", "b_0000.JPG", ".c.jpg", "notes.txt")
    with pytest.raises(Exception, match=r"a_0000\.jpg, b_0000\.JPG: JPEG is not read\. Save it as PNG\."):
        find_cases([tmp_path / "photos"], 1)
    files(tmp_path / "photos", "d_0000.png")
    assert predicted(tmp_path / "photos") == ["d"]
    (said,) = overlooked([tmp_path / "photos", tmp_path / "photos" / "d_0000.png"])
    assert "a_0000.jpg, b_0000.JPG" in said
    assert "notes" not in said


# Training


def dataset(folder: Path, images: list[str], labels: list[str], channels: int = 1, **changes: object) -> Dataset:
    files(folder / "imagesTr", *images)
    files(folder / "labelsTr", *labels)
    body = {"channel_names": {str(number): "MR" for number in range(channels)}, "labels": {"background": 0, "a": 1}}
    (folder / "dataset.json").write_text(json.dumps(body | changes))
    return Dataset.open(folder)


def said(found: Dataset) -> list[str]:
    return [str(problem) for problem in found.problems]


NAMES = [f"amos_{number:04d}.nii.gz" for number in range(4)]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("first", [0, 1, 1001])
def test_training_cases_that_end_in_four_digits(tmp_path: Path, channels: int, first: int) -> None:
    names = [f"amos_{number:04d}.nii.gz" for number in range(first, first + 4)]
    found = dataset(tmp_path, names, names, channels)
    assert said(found) == []
    assert [case.name for case in found.cases] == [name.removesuffix(".nii.gz") for name in names]
    files(tmp_path / "imagesTs", "amos_2001.nii.gz", "amos_2002.nii.gz")
    assert [case.name for case in Dataset.open(tmp_path).test_cases] == ["amos_2001", "amos_2002"]


def test_a_missing_label_among_such_names_is_one_error(tmp_path: Path) -> None:
    (message,) = said(dataset(tmp_path, NAMES, NAMES[1:]))
    assert message.startswith("amos_0000: has no label file")


def test_a_file_too_many_is_one_error_and_the_others_are_sound(tmp_path: Path) -> None:
    found = dataset(tmp_path, ["a_0000.mha", "b_0000.mha", "b_0001.mha", "c_0000.mha"], ["a.mha", "b.mha", "c.mha"])
    (message,) = said(found)
    assert message.startswith("b: has the channel files _0000, _0001, but there is 1 channel.")
    assert [case.name for case in found.cases] == ["a", "c"]


def test_the_one_file_without_a_number_is_named(tmp_path: Path) -> None:
    images = ["a_0000.mha", "b_0000.mha", "c.mha", "d_0000.mha"]
    found = dataset(tmp_path, images, ["a.mha", "b.mha", "c.mha", "d.mha"])
    assert said(found) == ["c.mha: lacks the number of its channel (_0000); 3 others have it. Rename it to c_0000.mha."]
    assert [problem.case for problem in found.problems] == ["c"]
    assert [case.name for case in found.cases] == ["a", "b", "d"]


def test_the_one_file_with_a_number_is_named(tmp_path: Path) -> None:
    found = dataset(tmp_path, ["a.mha", "b_0000.mha", "c.mha"], ["a.mha", "b.mha", "c.mha"])
    (message,) = said(found)
    assert message.startswith("b_0000.mha: has the number of a channel; 2 others have none. Rename it to b.mha")


def test_a_label_with_the_number_of_a_channel_is_named(tmp_path: Path) -> None:
    found = dataset(tmp_path, ["a_0000.mha", "b_0000.mha"], ["a.mha", "b_0000.mha"])
    assert said(found) == ["b: its label is named b_0000.mha, with the number of a channel. Rename it to b.mha."]


def test_channels_of_a_listed_name_are_numbered_from_0(msd: Build) -> None:
    # nnU-Net v1: case.nii.gz is listed, case_0000.nii.gz and case_0001.nii.gz are there.
    folder = msd(modality={"0": "T2", "1": "ADC"})
    for image in list((folder / "imagesTr").iterdir()):
        stem = image.name.removesuffix(".nii.gz")
        for number in (0, 2 if stem == "tiny_001" else 1):
            image.with_name(f"{stem}_{number:04d}.nii.gz").write_bytes(image.read_bytes())
        image.unlink()
    found = Dataset.open(folder)
    (message,) = said(found)
    assert message.startswith("tiny_001: has the channel files _0000, _0002.")
    assert [case.name for case in found.cases] == ["tiny_000", "tiny_002"]


def test_test_images_that_lack_a_channel_are_named(nnunet: Build) -> None:
    folder = nnunet()
    files(folder / "imagesTs", "x_0000.nrrd", "x_0002.nrrd", "y_0000.nrrd", "y_0001.nrrd")
    found = Dataset.open(folder)
    (problem,) = found.problems
    assert str(problem).startswith("imagesTs: x: has the channel files _0000, _0002.")
    assert not problem.fatal


# What is not used


def test_files_of_another_ending_are_counted_and_named(tmp_path: Path) -> None:
    images = [f"c{number}_0000.nii{'' if number > 5 else '.gz'}" for number in range(8)]
    found = dataset(
        tmp_path, images, [name.replace("_0000", "") for name in images], file_ending=".nii.gz", numTraining=8
    )
    assert len(found.cases) == 6
    assert not any(problem.fatal for problem in found.problems)
    number, image, label = said(found)
    assert '"numTraining" is 8, but there are 6 training cases' in number
    assert image.startswith("imagesTr: 2 files are not used: c6_0000.nii, c7_0000.nii.")
    assert label.startswith("labelsTr: 2 files are not used: c6.nii, c7.nii.")


def test_an_image_of_another_ending_than_its_label_is_the_error(tmp_path: Path) -> None:
    found = dataset(tmp_path, ["a_0000.nrrd", "b_0000.mha"], ["a.nrrd", "b.nrrd"], file_ending=".nrrd", numTraining=2)
    assert said(found) == ['b_0000.mha: "file_ending" is .nrrd. Save all files with one ending.']
    assert [problem.case for problem in found.problems if problem.fatal] == ["b"]


@pytest.mark.parametrize(("room", "ending"), [("imagesTr", ".png"), ("labelsTr", "")])
def test_formats_that_are_not_read_are_named(tmp_path: Path, room: str, ending: str) -> None:
    images, labels = ["a_0000.png", "b_0000.png"], ["a.png", "b.png"]
    (images if room == "imagesTr" else labels)[1] = "b_0000.jpg" if room == "imagesTr" else "b.jpg"
    found = dataset(tmp_path, images, labels, file_ending=ending or None)
    (message,) = said(found)
    assert re.fullmatch(r"b(_0000)?\.jpg: JPEG is not read\. Save it as PNG\.", message)
    assert [case.name for case in found.cases] == ["a"]


def test_whatever_else_lies_there_is_said_once(tmp_path: Path) -> None:
    names = ["a.tif", "b.tif"]
    found = dataset(
        tmp_path, ["a_0000.tif", "b_0000.tif", "readme.txt", "c.jpg", "d.jpg", "a.json", "b_0000.json", ".x"], names
    )
    (tmp_path / "imagesTs" / "old").mkdir(parents=True)
    images, photos, test = said(Dataset.open(tmp_path))
    assert {images, photos} == set(said(found))
    assert sorted((images.split(". ")[0], photos.split(". ")[0])) == [
        "imagesTr: 1 file is not used: readme.txt",
        "imagesTr: 2 files are not used: c.jpg, d.jpg",
    ]
    assert test.startswith("imagesTs: 1 file is not used: old")


def test_images_that_are_not_listed_are_said(msd: Build) -> None:
    folder = msd(numTraining=3)
    for room in ("imagesTr", "labelsTr"):
        files(folder / room, "tiny_003.nii.gz")
    found = Dataset.open(folder)
    assert len(found.cases) == 3
    assert [message.split(". ")[0] for message in said(found)] == [
        f"{room}: 1 file is not used: tiny_003.nii.gz" for room in ("imagesTr", "labelsTr")
    ]


def test_listed_files_in_folders_of_their_own_are_used(msd: Build) -> None:
    folder = msd()
    body = json.loads((folder / "dataset.json").read_text())
    for room in ("imagesTr", "labelsTr"):
        paths = list((folder / room).iterdir())
        (folder / room / "deep" / "deeper").mkdir(parents=True)
        for path in paths:
            path.rename(folder / room / "deep" / "deeper" / path.name)
    text = json.dumps(body).replace("Tr/", "Tr/deep/deeper/")
    (folder / "dataset.json").write_text(text)
    assert said(Dataset.open(folder)) == []


def test_an_empty_description_asks_for_what_is_needed(tmp_path: Path) -> None:
    files(tmp_path, "dataset.json")
    (tmp_path / "dataset.json").write_text("{}")
    text = "\n".join(said(Dataset.open(tmp_path)))
    assert '"channel_names" is missing' in text
    assert '"labels" is missing' in text
    assert "modality" not in text


def test_a_folder_names_its_images_as_training_does(tmp_path: Path) -> None:
    names = ["a_0000.mha", "b_0000.mha"]
    trained = dataset(tmp_path, names, ["a.mha", "b.mha"])
    assert [case.name for case in images_in(tmp_path / "imagesTr")] == [case.name for case in trained.cases]
    assert predicted(tmp_path / "imagesTr") == [case.name for case in trained.cases]

from __future__ import annotations

import copy
import gzip
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from voxfit.core.errors import DatasetError
from voxfit.imaging.dataset import Dataset
from voxfit.imaging.files import images_in
from voxfit.imaging.labels import Label
from voxfit.planning.folds import split

Build = Callable[..., Path]


def messages(dataset: Dataset) -> str:
    return "\n".join(str(problem) for problem in dataset.problems)


# The two layouts


def test_a_decathlon_folder(msd: Build) -> None:
    folder = msd()
    dataset = Dataset.open(folder)
    assert dataset.problems == ()
    assert (dataset.name, dataset.channel_names) == ("Tiny", ("MRI",))
    assert dataset.labels.classes == (Label(name="head", value=1), Label(name="tail", value=2))
    assert (dataset.labels.values, dataset.labels.names, dataset.labels.count) == ((0, 1, 2), ("head", "tail"), 3)
    assert [case.name for case in dataset.cases] == ["tiny_000", "tiny_001", "tiny_002"]
    for case in dataset.cases:
        (image,) = case.images
        assert Path(image).samefile(folder / "imagesTr" / f"{case.name}.nii.gz")
        assert Path(case.label or "").samefile(folder / "labelsTr" / f"{case.name}.nii.gz")
    (test,) = dataset.test_cases
    assert (test.name, test.label) == ("tiny_100", None)


def test_an_nnunet_folder(nnunet: Build) -> None:
    folder = nnunet()
    dataset = Dataset.open(str(folder))
    assert dataset.problems == ()
    assert (dataset.name, dataset.channel_names) == ("Dataset999_Tiny", ("T2", "ADC"))
    assert dataset.labels.classes == (Label(name="head", value=1), Label(name="tail", value=2))
    assert [case.name for case in dataset.cases] == ["a", "b", "c"]
    for case in dataset.cases:
        assert [Path(image).name for image in case.images] == [f"{case.name}_0000.nrrd", f"{case.name}_0001.nrrd"]
        assert Path(case.label or "").samefile(folder / "labelsTr" / f"{case.name}.nrrd")
    assert dataset.test_cases == ()


@pytest.mark.parametrize("channels", [1, 2, 11])
def test_channels_are_in_the_order_of_their_numbers(msd: Build, channels: int) -> None:
    names = {str(number): f"channel {number}" for number in reversed(range(channels))}
    assert Dataset.open(msd(modality=names)).channel_names == tuple(f"channel {number}" for number in range(channels))


@pytest.mark.parametrize(
    "labels",
    [
        {"0": "background", "3": "a", "7": "b"},
        {"background": 0, "b": 7, "a": 3},
        {"7": "b", "3": "a"},
        {"background": 0, "a": 3, "b": 7},
    ],
    ids=str,
)
def test_labels_in_either_direction_are_in_the_order_of_their_values(msd: Build, labels: dict[str, Any]) -> None:
    dataset = Dataset.open(msd(labels=labels))
    assert dataset.problems == ()
    assert dataset.labels.values == (0, 3, 7)
    assert dataset.labels.names == ("a", "b")


def test_names_of_numbers_are_names_where_the_values_are_numbers(nnunet: Build) -> None:
    assert Dataset.open(nnunet(labels={"background": 0, "5": 1})).labels.classes == (Label(name="5", value=1),)


def test_listed_images_may_be_stored_by_channel(msd: Build) -> None:
    # nnU-Net v1: dataset.json lists case.nii.gz, the folder has case_0000.nii.gz and case_0001.nii.gz.
    folder = msd(modality={"0": "T2", "1": "ADC"})
    for image in list((folder / "imagesTr").iterdir()):
        stem = image.name.removesuffix(".nii.gz")
        shutil.copy(image, image.with_name(f"{stem}_0001.nii.gz"))
        image.rename(image.with_name(f"{stem}_0000.nii.gz"))
    dataset = Dataset.open(folder)
    assert dataset.problems == ()
    for case in dataset.cases:
        assert [Path(image).name for image in case.images] == [
            f"{case.name}_{channel:04d}.nii.gz" for channel in (0, 1)
        ]


@pytest.mark.parametrize("name", ["case[1]", "**", "a b", "ü", "x.y"])
def test_unusual_names_are_only_names(msd: Build, name: str) -> None:
    entry = {"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"}
    folder = msd(training=[entry])
    for room in ("imagesTr", "labelsTr"):
        (folder / room / "tiny_000.nii.gz").rename(folder / room / f"{name}.nii.gz")
    image = folder / "imagesTr" / f"{name}.nii.gz"
    for stored in (image, image.with_name(f"{name}_0000.nii.gz")):
        image = image.rename(stored)
        dataset = Dataset.open(folder)
        assert not any(problem.fatal for problem in dataset.problems)  # the other files are not listed
        assert [(case.name, case.images) for case in dataset.cases] == [(name, (str(stored),))]


def test_what_macos_leaves_beside_files_is_no_case(nnunet: Build) -> None:
    folder = nnunet()
    for file in [*(folder / "imagesTr").iterdir(), *(folder / "labelsTr").iterdir()]:
        file.with_name(f"._{file.name}").write_bytes(b"\x00\x05\x16\x07")
    dataset = Dataset.open(folder)
    assert dataset.problems == ()
    assert len(dataset.cases) == 3


def test_cases_may_be_listed_with_their_files(nnunet: Build) -> None:
    folder = nnunet()
    plain = Dataset.open(folder).cases
    named = {
        f"patient {case.name}": {
            "images": [os.path.relpath(image, folder) for image in reversed(case.images)],
            "label": os.path.relpath(case.label or "", folder),
        }
        for case in plain
    }
    body = json.loads((folder / "dataset.json").read_text()) | {"dataset": named}
    (folder / "dataset.json").write_text(json.dumps(body))
    dataset = Dataset.open(folder)
    assert dataset.problems == ()
    assert [case.name for case in dataset.cases] == list(named)
    assert [case.images for case in dataset.cases] == [case.images[::-1] for case in plain]  # the order is the list's


def test_only_files_of_the_named_ending_count(nnunet: Build) -> None:
    folder = nnunet(file_ending=".nrrd")
    for room in ("imagesTr", "labelsTr"):
        (folder / room / "thumbnail.png").write_bytes(b"x")
    dataset = Dataset.open(folder)
    assert [problem.where for problem in dataset.problems] == ["imagesTr", "labelsTr"]
    for problem in dataset.problems:
        assert not problem.fatal
        assert "1 file is not used: thumbnail.png." in problem.what
    assert len(dataset.cases) == 3


def test_a_missing_channel_file_is_named(nnunet: Build) -> None:
    folder = nnunet()
    for image in (folder / "imagesTr").glob("b_0001*"):
        image.rename(image.with_name(image.name.replace("_0001", "_0002")))
    assert "b: has the channel files _0000, _0002." in messages(Dataset.open(folder))


def test_a_given_split_is_taken_over(nnunet: Build) -> None:
    folder = nnunet()
    names = [case.name for case in Dataset.open(folder).cases]
    folds = [{"train": names[1:], "val": names[:1]}, {"train": names[:1], "val": names[1:2]}]
    (folder / "splits_final.json").write_text(json.dumps(folds))
    dataset = Dataset.open(folder)
    assert dataset.problems == ()
    found = split(dataset.cases, 5, 0, dataset.splits)
    assert [found.training(fold) for fold in (0, 1)] == [tuple(names[1:]), tuple(names[:1])]
    assert found.validation == (tuple(names[:1]), tuple(names[1:2]))


@pytest.mark.parametrize(
    ("folds", "words"),
    [
        ([], "no folds"),
        ({}, "no folds"),
        (["a"], "no list of folds"),
        ([{"train": ["stranger"], "val": ["tiny_000"]}], "stranger"),
        ([{"train": ["tiny_000", "tiny_001"], "val": ["tiny_000"]}], "both sides"),
        ([{"train": ["tiny_000"], "val": []}], "empty"),
    ],
)
def test_unusable_splits_are_named(msd: Build, folds: object, words: str) -> None:
    folder = msd()
    (folder / "splits_final.json").write_text(json.dumps(folds))
    dataset = Dataset.open(folder)
    assert any(problem.fatal and words in str(problem) for problem in dataset.problems)


def test_cases_of_a_group(msd: Build) -> None:
    folder = msd(groups={"tiny_000": "p1", "tiny_001": "p1"})
    assert [case.group for case in Dataset.open(folder).cases] == ["p1", "p1", ""]
    assert [case.group for case in Dataset.open(folder, r"tiny_00[01]|tiny_002").cases] == [
        "tiny_000",
        "tiny_001",
        "tiny_002",
    ]
    assert [case.group for case in Dataset.open(folder, r"^tiny_(00)").cases] == ["00"] * 3


@pytest.mark.parametrize(
    ("pattern", "fragment"),
    [("(", "no regular expression"), ("^A_", "matches nothing"), ("(x)?tiny", "matches nothing")],
)
def test_a_pattern_that_groups_nothing_is_refused(msd: Build, pattern: str, fragment: str) -> None:
    with pytest.raises(DatasetError, match="--group-by") as caught:
        Dataset.open(msd(), pattern)
    assert fragment in str(caught.value)
    assert repr(pattern) in str(caught.value)


# Files without a description


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"a\xff.nii.gz")).touch()
    except OSError:
        pytest.skip("this file system takes no such name")
    with pytest.raises(DatasetError, match=r"a\\udcff\.nii\.gz.*Rename"):
        images_in(tmp_path)


# Faults


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (None, "no such file"),
        (b"", "not readable JSON"),
        (b"{'labels': 1}", "not readable JSON"),
        (b"\xff\xfe", "not readable JSON"),
        (b"[]", "no JSON object"),
        (b'"\\ud800"', "not readable JSON"),
        (gzip.compress(b"{}"), "not readable JSON"),
    ],
)
def test_a_folder_without_a_usable_description(tmp_path: Path, content: bytes | None, fragment: str) -> None:
    if content is not None:
        (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(DatasetError, match=fragment) as caught:
        Dataset.open(tmp_path)
    assert str(caught.value).count(str(tmp_path / "dataset.json")) == 1


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder") as caught:
        Dataset.open(tmp_path / "Task00_Absent")
    assert "Task00_Absent" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        ({"modality": ...}, ['"channel_names" is missing']),
        ({"modality": {}}, ['"modality" is {}']),
        ({"modality": ["MRI"]}, ["\"modality\" is ['MRI']"]),
        ({"modality": {"0": 1}}, ['"modality"']),
        ({"modality": {"first": "MRI"}}, ["first"]),
        ({"channel_names": "MRI"}, ['"channel_names"']),
        ({"labels": ...}, ['"labels" is missing']),
        ({"labels": ["background", "liver"]}, ['"labels"', "liver"]),
        ({"labels": {}}, ['"labels" is {}']),
        ({"labels": {"background": 0}}, ["no label besides background"]),
        ({"labels": {"background": 0, "liver": 1, "tumour": 1}}, ["several labels have the value 1"]),
        ({"labels": {"0": "background", "1": "liver", "01": "tumour"}}, ["several labels have the value 1"]),
        ({"labels": {"background": 0, "liver": 1.5}}, ["liver", "1.5"]),
        ({"labels": {"background": 0, "liver": -1}}, ["liver", "-1"]),
        ({"labels": {"background": 0, "liver": True}}, ["liver", "True"]),
        ({"labels": {"background": 0, "liver": None}}, ["liver", "None"]),
        ({"labels": {"background": 0, "whole": [1, 2]}}, ["whole", "regions_class_order", "1, 2"]),
        ({"file_ending": ".npy"}, ["file_ending", ".nii.gz"]),
        ({"dataset": {"x": {"images": ["imagesTr/absent.nii.gz"], "label": "labelsTr/tiny_000.nii.gz"}}}, ["absent"]),
        ({"dataset": {"x": {"images": ["../x.nii.gz"], "label": "labelsTr/tiny_000.nii.gz"}}}, ["out of the dataset"]),
        ({"dataset": {"x": {"image": "a"}}}, ['entry "x"']),
        ({"labels": {"one": "liver"}}, ["liver", "one"]),
        ({"labels": {"²": "liver"}}, ["liver", "²"]),
        ({"training": [["imagesTr/a.nii.gz", "labelsTr/a.nii.gz"]]}, ["entry 0", '"training"']),
        ({"training": [{"image": "./imagesTr/tiny_000.nii.gz"}]}, ["entry 0"]),
        ({"training": [{"image": 1, "label": 2}]}, ["entry 0"]),
        ({"training": [{"image": "imagesTr/absent.nii.gz", "label": "labelsTr/tiny_000.nii.gz"}]}, ["absent", "image"]),
        ({"training": [{"image": "imagesTr/tiny_000.nii.gz", "label": "labelsTr/absent.nii.gz"}]}, ["tiny_000"]),
        ({"training": [{"image": "../../etc/passwd", "label": "labelsTr/tiny_000.nii.gz"}]}, ["../../etc/passwd"]),
        ({"training": [{"image": "/etc/passwd", "label": "labelsTr/tiny_000.nii.gz"}]}, ["/etc/passwd", "out of"]),
        ({"training": [{"image": "imagesTr/tiny_000.nii.gz", "label": "labelsTr/../../x"}]}, ["out of the dataset"]),
        ({"training": [{"image": "a\0b", "label": "labelsTr/tiny_000.nii.gz"}]}, ["a\\x00b"]),
        ({"training": [{"image": "a" * 5000, "label": "labelsTr/tiny_000.nii.gz"}]}, ["aaaa"]),
        ({"training": [{"image": "", "label": "labelsTr/tiny_000.nii.gz"}]}, ["image"]),
    ],
    ids=lambda value: str(value)[:60],
)
def test_faults_of_the_description_are_fatal_and_named(
    msd: Build, change: dict[str, Any], fragments: list[str]
) -> None:
    dataset = Dataset.open(msd(**change))
    assert any(problem.fatal for problem in dataset.problems)
    for problem in dataset.problems:
        assert problem.where
        assert problem.what
        assert problem.remedy
    for fragment in fragments:
        assert fragment in messages(dataset)


def test_a_case_listed_twice(msd: Build) -> None:
    entry = {"image": "imagesTr/tiny_000.nii.gz", "label": "labelsTr/tiny_000.nii.gz"}
    dataset = Dataset.open(msd(training=[entry, entry]))
    assert "tiny_000: the case is there 2 times." in messages(dataset)
    assert len(dataset.cases) == 1


def test_images_and_labels_that_miss_each_other(nnunet: Build) -> None:
    folder = nnunet()
    (folder / "labelsTr" / "a.nrrd").unlink()
    for image in (folder / "imagesTr").glob("b_*"):
        image.unlink()
    dataset = Dataset.open(folder)
    assert "a: has no label file in labelsTr." in messages(dataset)
    assert "b: has a label but no image in imagesTr." in messages(dataset)
    assert len(dataset.problems) == 2
    assert all(problem.fatal for problem in dataset.problems)
    assert [case.name for case in dataset.cases] == ["c"]


@pytest.mark.parametrize("room", ["imagesTr", "labelsTr"])
def test_a_missing_or_empty_folder(nnunet: Build, room: str) -> None:
    folder = nnunet()
    shutil.rmtree(folder / room)
    assert room in messages(Dataset.open(folder))
    (folder / room).mkdir()
    assert room in messages(Dataset.open(folder))


def test_a_dataset_without_cases(nnunet: Build) -> None:
    folder = nnunet()
    for room in ("imagesTr", "labelsTr"):
        shutil.rmtree(folder / room)
        (folder / room).mkdir()
    assert "there are no training cases" in messages(Dataset.open(folder))


def test_all_faults_come_at_once(msd: Build) -> None:
    entries = [
        {"image": "imagesTr/absent.nii.gz", "label": "labelsTr/tiny_000.nii.gz"},
        {"image": "imagesTr/tiny_001.nii.gz", "label": "labelsTr/absent.nii.gz"},
        {"image": "/etc/passwd", "label": "x"},
    ]
    dataset = Dataset.open(msd(modality=None, labels={"background": 0, "liver": 1.5}, training=entries))
    for fragment in ("modality", "1.5", "absent.nii.gz", "tiny_001", "/etc/passwd"):
        assert fragment in messages(dataset)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None, categories=None), max_size=8)
    | st.sampled_from(["imagesTr/tiny_000.nii.gz", "labelsTr", ".", "..", "*", "**", "[", "a\0", "~", "1", "CT"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.just("image"), inner, max_size=3)
    ),
    max_leaves=6,
)
strings = st.text(st.sampled_from("ab01./*[?\\\0~²٣ "), max_size=6)
entries = st.lists(st.fixed_dictionaries({"image": strings, "label": strings}), max_size=2)
parts = st.fixed_dictionaries(
    {},
    optional={
        "name": json_values,
        "modality": json_values | st.dictionaries(strings, strings, max_size=2),
        "channel_names": json_values,
        "labels": json_values | st.dictionaries(strings, strings | st.integers(), max_size=3),
        "training": json_values | entries,
        "groups": json_values,
    },
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    for room in ("imagesTr", "labelsTr"):
        (folder / room).mkdir()
        (folder / room / "tiny_000.nii.gz").touch()
    return folder


@given(parts)
@settings(max_examples=150)
@example({"labels": {"²": "a"}})
@example({"training": [{"image": "**", "label": "\0"}]})
def test_no_description_is_answered_with_a_traceback(tiny: Path, changes: dict[str, Any]) -> None:
    given_ = copy.deepcopy({"modality": {"0": "MRI"}, "labels": {"1": "a"}} | changes)
    (tiny / "dataset.json").write_text(json.dumps(given_))
    try:
        dataset = Dataset.open(tiny)
    except DatasetError:
        return
    if not any(problem.fatal for problem in dataset.problems):
        assert dataset.cases
        assert dataset.channel_names
        assert len(set(dataset.labels.values)) == dataset.labels.count > 1


# Real datasets


@pytest.mark.parametrize(
    ("name", "training", "test", "channels", "labels", "files"),
    [
        ("Task04_Hippocampus", 200, 60, ("MRI",), ("Anterior", "Posterior"), 1),
        ("Dataset027_Cardiac", 48, 16, ("MRI",), ("label1", "label2", "label3"), 1),
        ("Task01_BrainTumour6", 6, 0, ("FLAIR", "T1gd"), ("necrosis", "edema", "non-enhancing", "enhancing"), 1),
        ("Dataset120_Membrane2D", 20, 10, ("EM",), ("cell",), 1),
    ],
)
def test_real_datasets(
    shared_data: Path,
    name: str,
    training: int,
    test: int,
    channels: tuple[str, ...],
    labels: tuple[str, ...],
    files: int,
) -> None:
    dataset = Dataset.open(shared_data / name)
    # What surrounds the cells is called membrane, with the value 0.
    said = ['the label "membrane" has the value 0, which is background'] if "Membrane" in name else []
    assert [problem.what.split(":")[0] for problem in dataset.problems] == said
    assert not any(problem.fatal for problem in dataset.problems)
    assert (len(dataset.cases), len(dataset.test_cases)) == (training, test)
    assert (dataset.channel_names, dataset.labels.names) == (channels, labels)
    assert dataset.labels.values == tuple(range(len(labels) + 1))
    for case in (*dataset.cases, *dataset.test_cases):
        assert len(case.images) == files
        assert all(Path(image).is_file() for image in case.images)
    assert all(Path(case.label or "").is_file() for case in dataset.cases)
    assert not {case.name for case in dataset.cases} & {case.name for case in dataset.test_cases}


def test_both_phases_of_a_heart_are_one_group(shared_data: Path) -> None:
    dataset = Dataset.open(shared_data / "Dataset027_Cardiac", r"^(.*)_E[DS]$")
    groups = Counter(case.group for case in dataset.cases)
    assert len(groups) == 24
    assert set(groups.values()) == {2}
    assert all(case.name in (f"{case.group}_ED", f"{case.group}_ES") for case in dataset.cases)

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from voxfit.imaging.labels import IGNORED, Label, Labels, Region, impossible_regions, read_labels, some

values = st.lists(st.integers(1, 300), max_size=5, unique=True).map(sorted)
dtypes = st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.uint64])


def labels_with(numbers: list[int]) -> Labels:
    return Labels(classes=tuple(Label(name=f"class {number}", value=number) for number in numbers))


@given(values, st.data())
def test_values_become_places_in_the_list(numbers: list[int], data: st.DataObject) -> None:
    dtype = data.draw(dtypes)
    known = [number for number in [0, *numbers] if number <= np.iinfo(dtype).max]
    strays = data.draw(st.lists(st.integers(0, 255), max_size=2))
    array: NDArray[np.generic] = data.draw(
        hnp.arrays(dtype, hnp.array_shapes(max_dims=3, max_side=4), elements=st.sampled_from(known + strays))
    )
    indices, unknown = labels_with(numbers).to_indices(array)
    table = {number: index for index, number in enumerate([0, *numbers])}
    expected = [table.get(value, 0) for value in array.ravel().tolist()]
    assert indices.ravel().tolist() == expected
    assert indices.shape == array.shape
    assert indices.dtype == np.int16
    assert unknown == sorted({value for value in array.ravel().tolist() if value not in table})


def test_long_lists_are_shortened_in_messages() -> None:
    assert some([1, 2, 3]) == "1, 2, 3"
    assert some(range(20)) == "0, 1, 2, 3, 4, 5, 6, 7 and 12 more"


def test_a_label_is_a_name_and_a_whole_number() -> None:
    for value in (1.0, "1", True, None):
        with pytest.raises(ValueError, match="value"):
            Label.model_validate({"name": "liver", "value": value})


BRAIN = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "tip": 3, "ignore": 4}


def test_regions_and_ignore_are_read() -> None:
    labels = Labels.from_description(BRAIN, [1, 2, 3])
    assert labels.classes == (
        Label(name="label 1", value=1),
        Label(name="label 2", value=2),
        Label(name="tip", value=3),
    )
    assert labels.regions == (
        Region(name="whole", values=(1, 2, 3), paste=1),
        Region(name="core", values=(2, 3), paste=2),
        Region(name="tip", values=(3,), paste=3),
    )
    assert labels.ignore == 4
    assert labels.names == ("whole", "core", "tip")
    assert labels.members == ((1, 2, 3), (2, 3), (3,))
    assert (labels.count, labels.outputs) == (4, 3)


def test_classes_with_ignore_keep_their_background() -> None:
    labels = Labels.from_description({"background": 0, "b": 7, "a": 3, "ignore": 9})
    assert (labels.names, labels.values, labels.ignore, labels.outputs) == (("a", "b"), (0, 3, 7), 9, 3)
    indices, unknown = labels.to_indices(np.array([0, 3, 7, 9, 5]))
    assert indices.tolist() == [0, 1, 2, IGNORED, 0]
    assert unknown == [5]


@pytest.mark.parametrize(
    ("labels", "order", "words"),
    [
        (BRAIN, None, "regions_class_order"),
        (BRAIN, [1, 2], "regions_class_order"),
        (BRAIN, [1, 2, 8], "regions_class_order"),
        (BRAIN, "123", "regions_class_order"),
        ({"background": 0, "whole": [0, 1]}, [1], "background"),
        ({"background": 0, "a": 1, "ignore": 1}, None, "ignore"),
        ({"background": 0, "a": 1, "ignore": 0}, None, "ignore"),
        ({"background": 0, "a": 1, "ignore": [2, 3]}, None, "ignore"),
        ({"background": 0, "a": []}, None, "whole numbers"),
        ({"background": 0, "a": [1, -2]}, None, "whole numbers"),
        ({"1": "a", "2": "a"}, None, "several labels"),
    ],
)
def test_unusable_descriptions_are_named(labels: object, order: object, words: str) -> None:
    _, problems = read_labels(labels, order)
    assert words in str(problems[0])
    assert problems[0].fatal
    with pytest.raises(ValueError, match=words):
        Labels.from_description(labels, order)


@given(hnp.arrays(np.float32, (3, 4, 5), elements=st.floats(0, 1, width=32)))
def test_regions_are_pasted_in_order(probabilities: NDArray[np.float32]) -> None:
    labels = Labels.from_description(BRAIN, [1, 2, 3])
    expected = np.zeros((4, 5), int)
    for place in np.ndindex(4, 5):
        for number in range(3):
            if probabilities[(number, *place)] > 0.5:
                expected[place] = number + 1
    assert np.array_equal(labels.decide(probabilities), expected)
    with np.errstate(divide="ignore"):
        logits = np.log(probabilities.astype(float)) - np.log1p(-probabilities.astype(float))
    assert np.array_equal(labels.decide(logits, logits=True), expected)


def test_the_most_likely_class_wins_however_many_there_are() -> None:
    labels = labels_with(list(range(1, 301)))
    outputs = np.random.default_rng(0).random((301, 4, 5))
    outputs[280, 1, 1] = 2
    assert np.array_equal(labels.decide(outputs), outputs.argmax(axis=0))
    assert labels.decide(outputs)[1, 1] == 280


@given(hnp.arrays(np.float32, (4, 3, 5), elements=st.sampled_from([0.0, 0.25, 0.5])))
def test_of_equal_outputs_the_first_decides(probabilities: NDArray[np.float32]) -> None:
    found = labels_with([1, 2, 3]).decide(probabilities)
    for place in np.ndindex(3, 5):
        values = [float(probabilities[(index, *place)]) for index in range(4)]
        assert found[place] == values.index(max(values))


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("kind", [int, str])
def test_values_may_be_strings_and_names_and_values_exchanged(swapped: bool, kind: type) -> None:
    pairs = {"background": kind(0), "ball": kind(1), "cube": kind(2)}
    labels, problems = read_labels({str(value): name for name, value in pairs.items()} if swapped else pairs)
    assert problems == []
    assert labels.classes == (Label(name="ball", value=1), Label(name="cube", value=2))


def test_regions_may_have_strings_for_values() -> None:
    described = {name: list(map(str, v)) if isinstance(v, list) else str(v) for name, v in BRAIN.items()}
    assert read_labels(described, [1, 2, 3]) == read_labels(BRAIN, [1, 2, 3])


@pytest.mark.parametrize("name", ["ball", "0", "Background 2"])
def test_another_name_for_0_is_a_warning(name: str) -> None:
    labels, problems = read_labels({name: 0, "cube": 1})
    assert labels.names == ("cube",)
    (problem,) = problems
    assert not problem.fatal
    assert f'"{name}" has the value 0, which is background' in problem.what
    assert Labels.from_description({name: 0, "cube": 1}) == labels


@pytest.mark.parametrize("labels", [{"background": 1, "cube": 2}, {"Background": 1, "cube": 2}, {"1": "background"}])
def test_background_that_is_not_0_is_an_error(labels: dict[str, object]) -> None:
    (problem,) = read_labels(labels)[1]
    assert problem.fatal
    assert "has the value 1, but background is 0" in problem.what


def test_background_of_any_spelling_is_0() -> None:
    for name in ("background", "Background", "BACKGROUND "):
        assert read_labels({name: 0, "cube": 1})[1] == []


@pytest.mark.parametrize(
    ("labels", "order", "words"),
    [
        ({"cube": 2, "whole": [1, 2]}, [2, 1], ["cube gets lost", "written as 1", "from large to small"]),
        ({"whole": [1, 2], "cube": 2}, [1, 1], ["cube gets lost"]),
        ({"whole": [1, 2], "cube": 2}, [2, 1], ["written as 2", "cube comes out there"]),
        ({"tip": 3, "core": [2, 3], "whole": [1, 2, 3]}, [3, 2, 1], ["core gets lost"]),
        (BRAIN, [1, 3, 2], ["tip"]),
    ],
)
def test_regions_that_no_label_map_can_hold_are_an_error(
    labels: dict[str, object], order: list[int], words: list[str]
) -> None:
    found, problems = read_labels(labels, order)
    assert problems == []
    (problem,) = impossible_regions(found)
    assert problem.fatal
    assert not [word for word in words if word not in str(problem)]


region_sets = st.lists(st.sets(st.integers(1, 3), min_size=1), min_size=1, max_size=4)


@given(region_sets, st.data())
def test_regions_are_possible_where_flawless_outputs_give_them_back(
    members: list[set[int]], data: st.DataObject
) -> None:
    """Painted from the truth in the given order, each region is found again in the label map, or it is an error."""
    values = sorted(set().union(*members))
    order = [data.draw(st.sampled_from(values)) for _ in members]
    painted = dict.fromkeys(values, 0)
    for region, paste in zip(members, order, strict=True):
        for value in region:
            painted[value] = paste
    holds = all((value in region) == (painted[value] in region) for value in values for region in members)
    labels = Labels(
        classes=tuple(Label(name=f"class {value}", value=value) for value in values),
        regions=tuple(
            Region(name=f"region {number}", values=tuple(sorted(region)), paste=paste)
            for number, (region, paste) in enumerate(zip(members, order, strict=True))
        ),
    )
    assert (impossible_regions(labels) == []) == holds


def test_classes_without_regions_are_possible() -> None:
    assert impossible_regions(labels_with([1, 2])) == []

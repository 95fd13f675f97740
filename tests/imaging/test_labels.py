from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from voxfit.imaging.labels import IGNORED, Label, Labels, Region, read_labels, some

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
    assert words in " ".join(problems[0])
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

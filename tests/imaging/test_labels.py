from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from voxfit.imaging.labels import Label, Labels, some

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

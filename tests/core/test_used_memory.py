"""What this process is said to use, and sizes in words."""

import sys

import numpy as np
import pytest

from voxfit.core.formatting import format_bytes
from voxfit.core.memory import used_bytes


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 MiB"), (800 * 2**20, "800 MiB"), (2**30, "1.0 GiB"), (3 * 2**29, "1.5 GiB"), (40 * 2**30, "40.0 GiB")],
)
def test_sizes_in_words_are_binary(size, text):
    assert format_bytes(size) == text


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only the most that was ever held is known")
def test_what_is_held_is_counted_in_bytes():
    before = used_bytes()
    held = np.ones(64 * 2**20, np.uint8)  # ones: memory that nobody wrote to is not there yet
    grown = used_bytes() - before
    assert len(held) == 64 * 2**20
    assert 0.9 * 64 * 2**20 < grown < 1.5 * 64 * 2**20

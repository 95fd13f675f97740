"""Golden files: what nnU-Net v2 gave for inputs that are made again from seeds. `make oracles` writes them.

`<name>.npz` has arrays, `<name>.json` numbers and words; `inputs.sha256` of each says for which inputs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent
STEP = 1e-6
"""Relative. What changes by less is a rounding of another machine: then the file stays."""


def whole_numbers(shape: tuple[int, ...], seed: int, low: int, high: int) -> NDArray[np.int64]:
    """Drawn from low ... high - 1, the same ones with every version of NumPy."""
    return np.random.RandomState(seed).randint(low, high, shape, np.int64)


def noise(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """About a hundred thousand values within 4 of zero, all exact in single precision."""
    return (whole_numbers(shape, seed, -(2**18), 2**18) / 2**16).astype(np.float32)


class Golden:
    """The arrays of one file."""

    def __init__(self, name: str) -> None:
        with np.load(FOLDER / f"{name}.npz") as found:
            self.arrays: dict[str, NDArray[Any]] = dict(found)

    def expected(self, key: str, *inputs: NDArray[Any]) -> NDArray[Any]:
        """What nnU-Net gave for these inputs."""
        digest = self.arrays[f"{key} of"].tobytes()
        assert digest == digest_of(inputs), f"{key}: other inputs than those that nnU-Net had"
        return self.arrays[key]


class Recorder:
    """Collects arrays, and writes them."""

    def __init__(self) -> None:
        self.arrays: dict[str, NDArray[Any]] = {}

    def record(self, key: str, output: Any, *inputs: NDArray[Any]) -> None:
        """What nnU-Net gives for inputs; numbers in single precision."""
        array = np.asarray(output)
        self.arrays[key] = array.astype(np.float32) if array.dtype.kind == "f" else array
        self.arrays[f"{key} of"] = np.frombuffer(digest_of(inputs), np.uint8)

    def write(self, name: str) -> None:
        """To its file, if that says something else."""
        path = FOLDER / f"{name}.npz"
        if not path.exists() or not self._is_in(Golden(name).arrays):
            np.savez_compressed(path, **self.arrays)  # type: ignore[arg-type]

    def _is_in(self, old: Mapping[str, NDArray[Any]]) -> bool:
        return set(old) == set(self.arrays) and all(_alike(old[key], new) for key, new in self.arrays.items())


def _alike(old: NDArray[Any], new: NDArray[Any]) -> bool:
    if old.shape != new.shape or old.dtype != new.dtype:
        return False
    largest = float(np.abs(new).max()) if new.dtype.kind == "f" and new.size else 0.0
    return bool((np.abs(old - new) <= STEP * largest).all()) if largest else np.array_equal(old, new)


def read_json(name: str) -> Any:
    """Numbers and words of one file."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def write_json(name: str, body: Any) -> None:
    """To a file, an entry in a line."""
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in body.items())
    (FOLDER / f"{name}.json").write_text(f"{{\n{lines}\n}}\n")


def digest_of(inputs: tuple[NDArray[Any], ...]) -> bytes:
    """Of shapes, types and values."""
    found = hashlib.sha256()
    for array in inputs:
        found.update(f"{array.shape} {array.dtype} ".encode() + np.ascontiguousarray(array).tobytes())
    return found.digest()[:8]

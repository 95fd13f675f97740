"""Arrays as predictors use them: NumPy's here, PyTorch's on a device (`voxfit.inference.torch_networks`).

A prediction by OpenVINO does without PyTorch, whose import takes more than a second and 170 MiB.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from voxfit.core.parallel import available_cores


def cpu_pass_voxels() -> int:
    """Voxels of one pass on a CPU: where tiles are smaller, several share it, so that no core is idle.

    More are not faster, and take more memory: measured with two cores, in 2D and 3D, by PyTorch and by OpenVINO. More
    cores are given more in proportion; that was not measured.
    """
    return 2**14 * available_cores()


class Arrays(Protocol):
    """A library's arrays at one place. What all libraries write in the same way (slices, sums) is not in here."""

    @property
    def pass_voxels(self) -> int:
        """Voxels that one pass of a network should have at least."""
        ...

    def here(self, array: Any) -> Any:
        """An array of this kind, of one of NumPy or of this library at another place; shared where that can be."""
        ...

    def to_numpy(self, array: Any) -> NDArray[np.float32]:
        """The same values for NumPy; shared where that can be."""
        ...

    def zeros(self, shape: Sequence[int]) -> Any:
        """A new array, float32."""
        ...

    def join(self, arrays: Sequence[Any], axis: int) -> Any:
        """Arrays one behind the other."""
        ...

    def flip(self, array: Any, axes: Sequence[int]) -> Any:
        """An array mirrored along axes."""
        ...

    def add_product(self, total: Any, part: Any, weights: Any) -> None:
        """Add (output, z, y, x) `part` times (z, y, x) `weights` to `total`."""
        ...

    def for_sums(self, size: int) -> Arrays:
        """Where sums of so many bytes are kept."""
        ...

    def synchronize(self) -> None:
        """Wait for what a device still computes."""
        ...


class NumpyArrays:
    """Arrays of NumPy."""

    @property
    def pass_voxels(self) -> int:
        """See `Arrays`."""
        return cpu_pass_voxels()

    def here(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """The array itself."""
        return array

    def to_numpy(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """The array itself."""
        return array

    def zeros(self, shape: Sequence[int]) -> NDArray[np.float32]:
        """See `Arrays`."""
        return np.zeros(shape, np.float32)

    def join(self, arrays: Sequence[NDArray[np.float32]], axis: int) -> NDArray[np.float32]:
        """See `Arrays`."""
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis)

    def flip(self, array: NDArray[np.float32], axes: Sequence[int]) -> NDArray[np.float32]:
        """A view."""
        return np.flip(array, tuple(axes))

    def add_product(self, total: NDArray[np.float32], part: NDArray[np.float32], weights: NDArray[np.float32]) -> None:
        """Output by output, so that the product is never there for all of them."""
        for output in range(len(total)):
            total[output] += part[output] * weights

    def for_sums(self, size: int) -> Arrays:
        """Here."""
        return self

    def synchronize(self) -> None:
        """Nothing is computed later."""

"""Arrays as predictors use them: NumPy's here, PyTorch's on a device (`voxfit.inference.torch_networks`).

A prediction by OpenVINO does without PyTorch, whose import takes more than a second and 170 MiB.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxfit.core.parallel import available_cores


def cpu_pass_voxels() -> int:
    """Voxels of one pass on a CPU: where tiles are smaller, several share it, so that no core is idle.

    More are not faster, and take more memory: measured with two cores, in 2D and 3D, by PyTorch and by OpenVINO. More
    cores are given more in proportion; that was not measured.
    """
    return 2**14 * available_cores()


class Arrays:
    """What predictors do with the arrays of a library, at one place: here NumPy's; others override it.

    What all libraries write in the same way (slices, sums) is not in here.

    Attributes:
        pass_voxels: that one pass of a network should have at least.
    """

    def __init__(self) -> None:
        self.pass_voxels = cpu_pass_voxels()

    def here(self, array: Any) -> Any:
        """An array of this kind, of one of NumPy or of this library at another place; shared where that can be."""
        return array

    def to_numpy(self, array: Any) -> NDArray[np.float32]:
        """The same values for NumPy; shared where that can be."""
        values: NDArray[np.float32] = array
        return values

    def zeros(self, shape: Sequence[int]) -> Any:
        """A new array, float32."""
        return np.zeros(shape, np.float32)

    def join(self, arrays: Sequence[Any], axis: int) -> Any:
        """Arrays one behind the other."""
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis)

    def flip(self, array: Any, axes: Sequence[int]) -> Any:
        """An array mirrored along axes; a view where that can be."""
        return np.flip(array, tuple(axes))

    def add_product(self, total: Any, part: Any, weights: Any) -> None:
        """Add (output, z, y, x) `part` times (z, y, x) `weights` to `total`."""
        for output in range(len(total)):  # so that the product is never there for all of them
            total[output] += part[output] * weights

    def for_sums(self, size: int) -> Arrays:
        """Where sums of so many bytes are kept."""
        return self

    def synchronize(self) -> None:
        """Wait for what a device still computes."""

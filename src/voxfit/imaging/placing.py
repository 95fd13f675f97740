"""Where a NIfTI header places its image, and label maps that get the same header.

A header may say it twice (sform and qform) or not at all, and programs differ in what they go by then. So a label map
of a NIfTI image has the fields of the image's header bit for bit, and lies where the image does in every program.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxfit.core.errors import DatasetError
from voxfit.imaging.geometry import Shape, corner_gap
from voxfit.imaging.nifti import Header, read_header

_UNIT_MM = {1: 1000.0, 3: 0.001}
"""Of NIfTI's units of length, metres and micrometres; all others are taken as millimetres."""
_NO_MORE_THAN_ROUNDING = 1e-7
_TYPES = {
    **{"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64},
    **{"i1": 256, "u2": 512, "u4": 768, "i8": 1024, "u8": 1280},
}
"""NIfTI's numbers of types, by NumPy's names."""


@dataclass(frozen=True)
class Placing:
    """What a NIfTI header says of the place of its image.

    Attributes:
        header: it.
        shape: (z, y, x) of the image.
        affines: of "sform" and "qform", where their codes are set, as `Geometry.affine` has it.
        assumed: the same where no code is set, as nibabel has it: the image's middle is at 0.
    """

    header: Header
    shape: Shape
    affines: dict[str, NDArray[np.float64]]
    assumed: NDArray[np.float64]

    @property
    def disagreement_mm(self) -> float:
        """How far sform and qform place a corner of the image apart; 0 where there are not both."""
        both = list(self.affines.values())
        return corner_gap(both[0], both[-1], self.shape) if both else 0.0

    @property
    def first(self) -> NDArray[np.float64]:
        """What programs go by that prefer the sform, such as nibabel."""
        return next(iter(self.affines.values()), self.assumed)


def read_placing(path: Path) -> Placing | None:
    """What the header of a NIfTI file says of the place of its image; None for other files."""
    try:
        header = read_header(path)
    except (DatasetError, OSError, EOFError, zlib.error):
        return None
    fields = header.fields
    pixdim = fields["pixdim"].tolist()
    axes = min(header.dim[0], 3)
    shape = (1,) * (3 - axes) + header.dim[axes:0:-1]
    unit = _UNIT_MM.get(int(fields["xyzt_units"]) & 7, 1.0)
    to_mm = np.diag([-unit, -unit, unit, 1.0])  # NIfTI's x points to the right, its y to the front
    affines = {}
    qform_code, sform_code = header.codes
    if sform_code > 0:
        affines["sform"] = to_mm @ np.vstack([np.reshape(fields["sform"].tolist(), (3, 4)), [0, 0, 0, 1]])
    if qform_code > 0:
        affines["qform"] = to_mm @ _of_quaternion(fields["qform"].tolist(), pixdim)
    middle = np.diag([-pixdim[1], pixdim[2], pixdim[3], 1.0])
    middle[:3, 3] = -middle[:3, :3] @ [(size - 1) / 2 for size in shape[::-1]]
    return Placing(header, shape, affines, to_mm @ middle)


def _of_quaternion(numbers: Sequence[float], pixdim: Sequence[float]) -> NDArray[np.float64]:
    """The 4 x 4 affine of a qform.

    Args:
        numbers: three parts (b, c, d) of the quaternion of a rotation, then the offset (x, y, z).
        pixdim: of the header: the sign of z, then the spacing (x, y, z).
    """
    a, (b, c, d) = _first_part(numbers[:3])
    affine = np.eye(4)
    affine[:3, :3] = [
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ]
    affine[:3, :3] *= [pixdim[1], pixdim[2], pixdim[3] * (-1 if pixdim[0] < 0 else 1)]
    affine[:3, 3] = numbers[3:6]
    return affine


def _first_part(parts: Sequence[float]) -> tuple[float, Sequence[float]]:
    """The part of a quaternion that is not stored, and the others: near 0 it is rounding, as in NIfTI's own library."""
    others = math.fsum(part * part for part in parts)
    if 1 - others < _NO_MORE_THAN_ROUNDING:
        return 0.0, [part / math.sqrt(others) for part in parts]
    return math.sqrt(1 - others), parts


def write_nifti(path: Path, array: NDArray[Any], placing: Placing) -> None:
    """Write a label map (z, y, x) with the place, units, version and byte order of an image's header.

    Args:
        path: the file; compressed where it ends in ".gz".
        array: of the image's shape.
        placing: of the image.

    Raises:
        OSError: it cannot be written.
    """
    source, order = placing.header.fields, placing.header.order
    dim, axes = placing.header.dim, min(placing.header.dim[0], 3)
    header = np.zeros((), source.dtype)  # its last four bytes say that there are no extensions
    for name in ("sizeof_hdr", "pixdim", "xyzt_units", "qform_code", "sform_code", "qform", "sform", "magic"):
        header[name] = source[name]
    header["pixdim"][4:] = 0  # of the axes of time and channels, which a label map does not have
    header["dim"] = (axes, *dim[1 : axes + 1], *(1,) * (7 - axes))
    header["datatype"], header["bitpix"] = _TYPES[array.dtype.str[1:]], 8 * array.dtype.itemsize
    header["vox_offset"], header["scl_slope"] = header.nbytes, 1
    with gzip.GzipFile(path, "wb", 6, mtime=0) if path.name.endswith(".gz") else path.open("wb") as stream:
        stream.write(header.tobytes())
        stream.write(np.ascontiguousarray(array, order + array.dtype.str[1:]).data)

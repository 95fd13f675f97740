"""Whether all programs will see an image, and its label map, at the same place: what their headers say of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from voxfit.core.errors import Problem
from voxfit.imaging.geometry import Geometry, corner_gap
from voxfit.imaging.placing import read_placing
from voxfit.imaging.volume import read_geometry

ROUNDING_VOXELS = 0.5
"""An sform and a qform of the same place differ by less: a rotation by nearly 180 degrees loses half of its digits."""


def placing_problem(path: Path) -> Problem | None:
    """A warning where programs will differ on the place of an image: its NIfTI header gives two places, or none.

    Args:
        path: an image or label map that can be read.
    """
    placing = read_placing(path)
    if placing is None:
        return None
    if not placing.affines:
        what = "its header has neither sform nor qform (both codes are 0), and programs differ in where they place it."
        return Problem(str(path), what, "If you know the place, set one of them.", fatal=False)
    geometry = read_geometry(path)
    if placing.disagreement_mm < ROUNDING_VOXELS * geometry.finest_mm:
        return None
    gaps = {name: corner_gap(affine, geometry.affine(), geometry.shape) for name, affine in placing.affines.items()}
    used, other = sorted(gaps, key=lambda name: gaps[name])
    what = f"its sform and qform place it up to {placing.disagreement_mm:.3g} mm apart: the {used} counts here, the "
    what += f"{other} for some other programs."
    return Problem(str(path), what, "Find out which one is right, and make both equal.", fatal=False)


def placing_gaps(image: Path, label: Path) -> tuple[float, float]:
    """How far apart the headers of an image and a label map of its shape place them, in voxels of the image.

    Returns:
        as read here, and as programs do that prefer the sform.
    """
    geometry, other = read_geometry(image), read_geometry(label)
    gap = corner_gap(_preferred(image, geometry), _preferred(label, other), geometry.shape)
    return geometry.farthest_corner_gap(other), gap / geometry.finest_mm


def _preferred(path: Path, geometry: Geometry) -> NDArray[np.float64]:
    placing = read_placing(path)
    return placing.first if placing else geometry.affine()

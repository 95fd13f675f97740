"""A synthetic dataset: a small body with liver, kidney and lesions, as a CT or an MR scanner might show it.

What is where (the anatomy) is drawn in physical space, so flipped and oblique grids show the same patient from another
side. The anatomy comes first from a case's random numbers and the scan second: the two flavours of a seed are the
same patients.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from voxfit.core.errors import RecordError, UsageError
from voxfit.core.records import read_json, write_atomically
from voxfit.imaging.geometry import Geometry, Shape
from voxfit.imaging.volume import Volume
from voxfit.imaging.writing import write_image, write_label

Flavour = Literal["ct", "mr"]
Floats = NDArray[np.float64]

LABELS = {"background": 0, "liver": 1, "kidney": 2, "lesion": 3}


class _Tissue(IntEnum):
    """What a voxel is made of; from LIVER on, tissues are the labels 1, 2, 3."""

    AIR, FAT, MUSCLE, BONE, LIVER, KIDNEY, LESION = range(7)


# In the order of _Tissue.
_HOUNSFIELD = np.array([-1000.0, -90.0, 40.0, 700.0, 105.0, 165.0, 30.0])
_MR_SIGNAL = np.array([0.0, 0.2, 0.38, 0.12, 0.68, 1.15, 0.22])  # fat is suppressed

_FIELD_OF_VIEW_MM = (92.0, 70.0, 74.0)  # (z, y, x), before rounding to whole voxels

# Half axes and centres, (x, y, z) in mm from the middle of the body; x grows to the patient's left, y to the back.
_BODY_MM = (33.0, 30.0, 62.0)
_SPINE_MM, _SPINE_AT_MM = (6.0, 5.5, np.inf), (0.0, 17.0, 0.0)
_ORGANS = (  # where they meet, the later one has the voxel
    (_Tissue.KIDNEY, (9.5, 11.0, 17.0), (15.5, 2.0, -5.0)),
    (_Tissue.LIVER, (17.0, 20.0, 31.0), (-9.5, -2.5, 2.0)),
)


def write_phantom(
    folder: Path, *, flavour: Flavour = "mr", cases: int = 16, test_cases: int = 4, seed: int = 0
) -> None:
    """Write a dataset in the nnU-Net v2 raw layout, with `labelsTs` to score predictions of its test images by.

    A case is determined by the seed and its number; the test cases continue the numbers of the training cases.

    Args:
        folder: new, empty, or holding what the same request wrote before (which is written again).
        flavour: `ct` has Hounsfield units; `mr` a scale of its own in each case, and a bias field.
        cases: training cases, at least 1.
        test_cases: test cases.
        seed: another one gives other patients.

    Raises:
        UsageError: the numbers make no sense, or the folder holds something else.
        WorkspaceError: the folder cannot be written.
    """
    if flavour not in get_args(Flavour):
        raise UsageError(f"{flavour!r} is no phantom: choose one of {', '.join(get_args(Flavour))}.")
    if cases < 1 or test_cases < 0 or seed < 0:
        raise UsageError(
            f"A phantom of {cases} training cases, {test_cases} test cases and seed {seed} cannot be written. "
            "Ask for at least 1 training case; the other numbers are 0 or more."
        )
    description = _describe(flavour, cases, test_cases, seed)
    _check_folder(folder, description)
    # The description goes first: after an interruption the same request finds it and completes the folder.
    write_atomically(folder / "dataset.json", (json.dumps(description, indent=1) + "\n").encode())
    for index in range(cases + test_cases):
        part, name = ("Tr" if index < cases else "Ts"), f"phantom_{index:03d}"
        image, label = draw_phantom(flavour, seed, index)
        write_image(folder / f"images{part}" / f"{name}_0000.nii.gz", image.array, image.geometry)
        write_label(folder / f"labels{part}" / f"{name}.nii.gz", label.array, label.geometry)


def draw_phantom(flavour: Flavour, seed: int, index: int) -> tuple[Volume, Volume]:
    """Draw one case: its image and its label map, both (z, y, x), on one grid.

    The image is int16 Hounsfield units (`ct`) or uint16 (`mr`), the label uint8 with the values of `LABELS`.
    """
    rng = np.random.default_rng([seed, index])
    geometry = _draw_geometry(rng, index)
    tissue = _draw_anatomy(rng, geometry)
    image = _scan_ct(rng, tissue) if flavour == "ct" else _scan_mr(rng, tissue)
    label = np.maximum(tissue - _Tissue.LIVER + 1, 0).astype(np.uint8)
    return Volume(image, geometry), Volume(label, geometry)


def _describe(flavour: Flavour, cases: int, test_cases: int, seed: int) -> dict[str, Any]:
    return {
        "name": f"Phantom{flavour.upper()}",
        "description": f"Synthetic, by voxfit: {cases} training and {test_cases} test cases, seed {seed}.",
        "channel_names": {"0": "CT" if flavour == "ct" else "MRI"},
        "labels": LABELS,
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }


def _check_folder(folder: Path, description: dict[str, Any]) -> None:
    """Refuse a folder with anything in it but this very phantom."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file. Name a new folder for the phantom.")
    if not folder.exists() or not any(folder.iterdir()):
        return
    try:
        same = read_json(folder / "dataset.json") == description
    except RecordError:
        same = False
    if not same:
        raise UsageError(f"{folder}: holds something else already. Name a new folder for the phantom, or empty it.")


def _draw_geometry(rng: np.random.Generator, index: int) -> Geometry:
    """A grid around the body; four cases in a row have the four orientations."""
    in_plane, between_slices = rng.uniform(1.4, 1.8), rng.uniform(1.8, 2.4)
    spacing = np.round([between_slices, in_plane, in_plane], 2)
    shape = np.rint(_FIELD_OF_VIEW_MM * rng.uniform(0.95, 1.05, 3) / spacing).clip(40, 52).astype(int)
    origin = np.round(rng.uniform(-200, 200, 3), 1)
    tilt = np.radians(rng.uniform(6, 14))
    oblique = _rotation(tilt, axis=0) @ _rotation(-tilt, axis=2)
    direction = (np.eye(3), np.diag([-1.0, -1.0, 1.0]), oblique, np.diag([1.0, 1.0, -1.0]))[index % 4]
    return Geometry(
        tuple(shape.tolist()), tuple(spacing.tolist()), tuple(origin.tolist()), tuple(direction.ravel().tolist())
    )


def _draw_anatomy(rng: np.random.Generator, geometry: Geometry) -> NDArray[np.int64]:
    """The tissue of every voxel."""
    positions = _positions(geometry)
    bent = positions + 1.7 * np.stack([_smooth_field(rng, geometry.shape, 2.5) for _ in range(3)])
    bent /= rng.uniform(0.95, 1.05)  # small and large patients
    depth = _level(bent, _BODY_MM)
    cavity = depth < 0.8
    tissue = np.select([depth < 0.9, depth < 1], [_Tissue.MUSCLE, _Tissue.FAT], _Tissue.AIR).astype(np.int64)
    _, y, z = bent
    ribs = (depth > 0.81) & (depth < 0.89) & (np.sin((z + 0.5 * y) * 2 * np.pi / 13) > 0)
    vertebrae = (_level(bent, _SPINE_MM, _SPINE_AT_MM) < 1) & (np.sin(z * 2 * np.pi / 17) > -0.8)
    tissue[ribs | vertebrae] = _Tissue.BONE
    for organ, axes, centre in _ORGANS:
        turn = np.radians(rng.uniform(-30, 30))
        level = _level(bent, axes * rng.uniform(0.93, 1.1, 3), centre + rng.uniform(-2.5, 2.5, 3), turn)
        tissue[(level < 1) & cavity & (tissue != _Tissue.BONE)] = organ
    _add_lesions(rng, tissue, positions, geometry.spacing_mm)
    return tissue


def _add_lesions(
    rng: np.random.Generator, tissue: NDArray[np.int64], positions: Floats, spacing_mm: Sequence[float]
) -> None:
    """Put one to three balls near the surface of the liver, each with liver all around it, as far as there is room."""
    rim = float(np.linalg.norm(spacing_mm))  # reaches every neighbour, also across corners
    step = max(spacing_mm)
    smallest = 4 * step
    for number in range(rng.integers(1, 4)):
        room = ndimage.distance_transform_edt(tissue == _Tissue.LIVER, sampling=spacing_mm) - rim
        if number and room.max() < smallest:
            break
        radius = min(smallest * rng.uniform(1, 1.3), room.max())
        centre = positions.reshape(3, -1)[:, rng.choice(np.flatnonzero((room >= radius) & (room < radius + step)))]
        tissue[_level(positions, (radius,) * 3, centre) <= 1] = _Tissue.LESION


def _scan_ct(rng: np.random.Generator, tissue: NDArray[np.int64]) -> NDArray[np.int16]:
    """Hounsfield units with a faint texture and noise of about 20."""
    texture = 7 * _smooth_field(rng, tissue.shape, 9) * (tissue != _Tissue.AIR)
    image = _blur(_HOUNSFIELD[tissue]) + texture + rng.normal(0, 17, tissue.shape)
    return np.asarray(np.rint(image).clip(-1024, 3071), np.int16)


def _scan_mr(rng: np.random.Generator, tissue: NDArray[np.int64]) -> NDArray[np.uint16]:
    """Magnitudes with texture, a smooth bias field, Rician noise and an arbitrary scale."""
    texture = 1 + 0.06 * _smooth_field(rng, tissue.shape, 9)
    bias = np.exp(0.2 * _smooth_field(rng, tissue.shape, 0.9))
    signal = _blur(_MR_SIGNAL[tissue]) * texture * bias
    real, imaginary = rng.normal(0, 0.05, (2, *tissue.shape))
    gain = 100 * np.exp(rng.uniform(np.log(0.5), np.log(20)))
    return np.asarray(np.rint(gain * np.hypot(signal + real, imaginary)), np.uint16)


def _blur(image: Floats) -> Floats:
    """Borders that share voxels between tissues."""
    blurred: Floats = ndimage.gaussian_filter(image, 0.6)
    return blurred


def _positions(geometry: Geometry) -> Floats:
    """Where voxels are: (x, y, z) in mm from the middle of the grid, as (3, *shape)."""
    index = np.indices(geometry.shape)[::-1].reshape(3, -1)
    middle = (np.array(geometry.shape[::-1]) - 1) / 2
    positions: Floats = geometry.affine()[:3, :3] @ (index - middle[:, None])
    return positions.reshape(3, *geometry.shape)


def _level(
    positions: Floats, axes: Sequence[float] | Floats, centre: Sequence[float] | Floats = (0, 0, 0), turn: float = 0
) -> Floats:
    """How far out voxels are in an ellipsoid turned about z: 0 at its centre, 1 on its surface."""
    shifted = positions - np.reshape(centre, (3, 1, 1, 1))
    turned = np.tensordot(_rotation(-turn, axis=2), shifted, axes=1)
    level: Floats = np.linalg.norm(turned / np.reshape(axes, (3, 1, 1, 1)), axis=0)
    return level


def _rotation(angle: float, axis: int) -> Floats:
    """The matrix that turns by `angle` (radians) about one axis of (x, y, z)."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[[first, second], [first, second]] = np.cos(angle)
    matrix[second, first] = np.sin(angle)
    matrix[first, second] = -np.sin(angle)
    return matrix


def _smooth_field(rng: np.random.Generator, shape: Shape, detail: float) -> Floats:
    """A random field of mean 0 and deviation 1: cosines with a Gaussian spectrum, `detail` half waves to a side."""
    waves = np.arange(int(3 * detail) + 2)
    decay = np.exp(-0.5 * (waves / detail) ** 2)
    field = rng.standard_normal((len(waves),) * 3)
    for size in shape:  # each step sums the first axis over the waves and appends the axis of voxels
        cosines = np.cos(np.pi * waves[:, None] * (np.arange(size) + 0.5) / size) * decay[:, None]
        field = np.tensordot(field, cosines, axes=(0, 0))
    standardised: Floats = (field - field.mean()) / field.std()
    return standardised

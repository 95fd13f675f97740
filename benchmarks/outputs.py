"""What the sides of a row wrote, compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def array(folder: Path, side: str) -> Any:
    """What a kernel returned last."""
    import numpy as np

    return np.load(folder / side / "output.npy")


def numbers(folder: Path, side: str) -> dict[str, Any]:
    """The numbers that a kernel returned last."""
    found: dict[str, Any] = json.loads((folder / side / "output.json").read_text())
    return found


def furthest(ours: Any, theirs: Any) -> float:
    """The largest difference, as a share of the range of the values."""
    import numpy as np

    assert ours.shape == theirs.shape, f"shapes {ours.shape} and {theirs.shape}"
    return float(np.abs(ours.astype(np.float64) - theirs).max() / np.ptp(theirs))


def within(ours: Any, theirs: Any, tolerance: float, what: str) -> str:
    """Words about the largest difference; an AssertionError where it is above the tolerance."""
    found = furthest(ours, theirs)
    assert found <= tolerance, f"{what}: {found:.1e} of the range, more than {tolerance:g}"
    return f"{what}: within {found:.0e} of the range (tolerance {tolerance:g})"


def label_maps(ours: Path, theirs: Path, least: float = 0.0, dice: float = 0.0) -> str:
    """Words about the voxels that differ in two folders of label maps with the same names.

    Args:
        ours, theirs: folders.
        least: the share of the foreground (of either) that must be equal.
        dice: that each label must reach.
    """
    import numpy as np
    import SimpleITK as sitk

    names = sorted(path.name for path in ours.glob("*.nii.gz"))
    assert names, f"{ours} is empty"
    assert names == sorted(path.name for path in theirs.glob("*.nii.gz")), "other files"
    different, foreground = 0, 0
    both: dict[int, int] = {}
    either: dict[int, int] = {}
    for name in names:
        left, right = (sitk.GetArrayFromImage(sitk.ReadImage(str(folder / name))) for folder in (ours, theirs))
        assert left.shape == right.shape, f"{name}: shapes {left.shape} and {right.shape}"
        different += int((left != right).sum())
        foreground += int(((left > 0) | (right > 0)).sum())
        for label in np.union1d(left, right)[1:].tolist():
            both[label] = both.get(label, 0) + int(((left == label) & (right == label)).sum())
            either[label] = either.get(label, 0) + int((left == label).sum()) + int((right == label).sum())
    assert foreground, "the network sees nothing"
    share = 1 - different / foreground
    assert share >= least, f"only {100 * share:.4f} % of the foreground is equal"
    lowest = min(2 * both[label] / either[label] for label in either)
    assert lowest >= dice, f"a label has a Dice of only {lowest:.4f}"
    wanted = [f"at least {100 * least:g} % must be equal"] * bool(least) + [f"at least {dice:g}"] * bool(dice)
    return (
        f"{len(names)} images: {different} voxels differ, {foreground} are foreground, "
        f"lowest Dice of a label {lowest:.4f} ({'; '.join(wanted)})"
    )

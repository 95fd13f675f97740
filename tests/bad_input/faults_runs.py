"""Faults of a request and of a run folder: refused before anything is prepared, or said."""

from __future__ import annotations

import numpy as np

from bad_input.faults import FIT, fault
from bad_input.place import Place


@fault(FIT, "A device that is not there", "--device gpu: not there", code=64)
def _(place: Place) -> list[str]:
    return place.fit("--device", "gpu")


@fault(FIT, "A configuration that does not exist", "--configurations 4d: there are 2d, 3d", code=64)
def _(place: Place) -> list[str]:
    return place.fit("--configurations", "4d")


@fault(FIT, "A fold that does not exist", "--folds 5: there are the folds 0 to 4", code=64)
def _(place: Place) -> list[str]:
    return place.fit("--folds", "0,5")


@fault(FIT, "A run folder that is the dataset", "is in the dataset", "Choose a run folder elsewhere", code=64)
def _(place: Place) -> list[str]:
    return ["plan", str(place.data), "-o", str(place.data), "--workers", "1"]


@fault(FIT, "A run folder in the dataset, by a link", "is in the dataset", code=64)
def _(place: Place) -> list[str]:
    link = place.root / "link"
    link.symlink_to(place.data / "imagesTr")
    return ["fit", str(place.data), "-o", str(link / "run"), "--workers", "1"]


def _one_labelled(place: Place) -> None:
    for number in range(1, 5):
        place.voxels(place.label(number), np.zeros_like, np.uint8)


@fault(FIT, "All foreground in one case", "no training case has left, right", ending="warning")
def _(place: Place) -> list[str]:
    _one_labelled(place)
    return place.check()

"""Faults that a training meets."""

from __future__ import annotations

from bad_input.faults import FIT, fault
from bad_input.place import Place
from builders.steps import begin
from voxfit.planning.plan import Limits
from voxfit.running.request import FitRequest


@fault(FIT, "Prepared cases whose files were cut short", "could not be made", "cannot be read", "A checkpoint was")
def _(place: Place) -> list[str]:
    limits = Limits(voxel_budget=4096, plane_voxels=2048, base_features=4)
    made = begin(FitRequest(place.data, place.root / "run", configurations=("3d",), limits=limits, workers=1))
    for path in made.store("3d").folder.glob("*.image.npy"):
        path.write_bytes(path.read_bytes()[:-1])
    return place.fit("--configurations", "3d", "--folds", "0", "--device", "cpu")

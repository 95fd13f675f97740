"""Faults of command lines, and names that mean something to other programs."""

from __future__ import annotations

import json

from bad_input.faults import fault
from bad_input.place import Place

REQUESTS = "Command lines"


def _plan(place: Place, *more: str) -> list[str]:
    return ["plan", str(place.data), "--workers", "1", *more]


@fault(REQUESTS, "An option that the command does not have", "--fast", "voxfit check --help", code=64)
def _(place: Place) -> list[str]:
    return place.check("--fast")


@fault(REQUESTS, "No output folder", "Missing option '-o'", code=64)
def _(place: Place) -> list[str]:
    return ["fit", str(place.data)]


@fault(REQUESTS, "A command that is not there", "segment", code=64)
def _(place: Place) -> list[str]:
    return ["segment", str(place.data)]


@fault(REQUESTS, "A limit that holds a second one", "give one number", code=64)
def _(place: Place) -> list[str]:
    return _plan(place, "--limit", 'voxel_budget=4096, "min_edge": 3')


@fault(REQUESTS, "A limit twice", "voxel_budget is given twice", code=64)
def _(place: Place) -> list[str]:
    return _plan(place, "--limit", "voxel_budget=4096", "--limit", "voxel_budget=8192")


@fault(REQUESTS, "A plan of measured facts where one is already", "perhaps edited by hand", code=64)
def _(place: Place) -> list[str]:
    facts, file = place.root / "fingerprint.json", place.root / "plan.json"
    facts.write_text("{}")
    file.write_text("{}")
    return ["plan", "--fingerprint", str(facts), "-o", str(file)]


@fault(REQUESTS, "Preparing without a place for it", "--prepare needs", code=64)
def _(place: Place) -> list[str]:
    return _plan(place, "--prepare")


@fault(REQUESTS, "A label named like markup of the terminal", ending="silent")
def _(place: Place) -> list[str]:
    path = place.data / "dataset.json"
    body = json.loads(path.read_text())
    body["labels"] = {f"[/{name}]" if value else name: value for name, value in body["labels"].items()}
    path.write_text(json.dumps(body))
    return _plan(place)

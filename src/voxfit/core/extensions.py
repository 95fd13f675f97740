"""What installed packages add to voxfit: networks, losses, augmentations and metrics, by entry points.

A package offers them in its `pyproject.toml`, and a recipe file names them (`examples/extension` has one of each)::

    [project.entry-points."voxfit.losses"]
    tversky = "my_package:tversky_loss"

Only what is installed is ever imported: names in recipes and models are looked up among the entry points, and no file
names a module or a path.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from voxfit.core.errors import UsageError

Kind = Literal["network", "loss", "augmentation", "metric"]

GROUPS: dict[Kind, str] = {
    "network": "voxfit.networks",
    "loss": "voxfit.losses",
    "augmentation": "voxfit.augmentations",
    "metric": "voxfit.metrics",
}


def extension(kind: Kind, name: str) -> Any:
    """What an installed package offers under a name.

    Raises:
        UsageError: no package offers it, or it cannot be imported.
    """
    point = _point(kind, name)
    try:
        return point.load()
    except Exception as error:  # whatever its package raises
        raise UsageError(f"the {kind} {name!r} of {_package(point)} cannot be imported: {error}.") from error


def package_of(kind: Kind, name: str) -> str:
    """The package that offers something, with its version, "my-package 1.0".

    Raises:
        UsageError: no package offers it.
    """
    return _package(_point(kind, name))


def _point(kind: Kind, name: str) -> EntryPoint:
    offered = {point.name: point for point in entry_points(group=GROUPS[kind])}
    if name not in offered:
        others = f"Installed packages offer {', '.join(sorted(offered))}." if offered else "None is installed."
        raise UsageError(f"the {kind} {name!r} is offered by no installed package. {others} Install its package.")
    return offered[name]


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value

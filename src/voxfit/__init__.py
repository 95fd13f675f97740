"""voxfit is a self-configuring segmentation U-Net for any medical image dataset.

The names below are the public interface; each is imported when it is first used, so that `import voxfit` is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from voxfit.core.version import VERSION

__version__ = VERSION

_HOMES = {
    "Dataset": "voxfit.imaging.dataset",
    "FitRequest": "voxfit.running.request",
    "FitResult": "voxfit.running.request",
    "Listener": "voxfit.core.progress",
    "Model": "voxfit.inference.model",
    "VoxfitError": "voxfit.core.errors",
    "evaluate": "voxfit.assessment.evaluation",
    "fit": "voxfit.running.fit",
}

__all__ = ["Dataset", "FitRequest", "FitResult", "Listener", "Model", "VoxfitError", "evaluate", "fit"]

if TYPE_CHECKING:
    from voxfit.assessment.evaluation import evaluate
    from voxfit.core.errors import VoxfitError
    from voxfit.core.progress import Listener
    from voxfit.imaging.dataset import Dataset
    from voxfit.inference.model import Model
    from voxfit.running.fit import fit
    from voxfit.running.request import FitRequest, FitResult


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"voxfit has no {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)

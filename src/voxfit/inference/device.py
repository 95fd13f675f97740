"""Where networks run."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

from voxfit.core.errors import UsageError

_DRIVERS = ("nvidia*", "nvhost*", "nvmap", "kfd", "dxg")
"""What the drivers of GPUs put into /dev on Linux: NVIDIA's for cards and boards, AMD's, and Windows' for its Linux."""


def choose_device(name: str) -> str:
    """ "auto" becomes the best device there is.

    Raises:
        UsageError: the device is not there.
    """
    if name == "cpu" or (name == "auto" and not _may_have_gpu()):
        return "cpu"
    import torch

    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.append("mps")
    if torch.cuda.is_available():
        available.append("cuda")
    if name == "auto":
        return available[-1]
    if name.split(":", maxsplit=1)[0] not in available:
        raise UsageError(f"--device {name}: not there. This machine has: {', '.join(available)}.")
    return name


def _may_have_gpu() -> bool:
    """Whether PyTorch must be asked, whose import takes more than a second."""
    if "torch" in sys.modules:
        return True
    if importlib.metadata.version("torch").endswith("+cpu"):
        return False
    return sys.platform != "linux" or any(True for kind in _DRIVERS for _ in Path("/dev").glob(kind))

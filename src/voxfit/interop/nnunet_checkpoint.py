"""Checkpoints of nnU-Net v2, read without running anything that is in them.

A `.pth` file is a pickle, which may name any function to be called. PyTorch's restricted reader builds tensors,
numbers, text and containers, and stops at everything else. The logs of real checkpoints also hold NumPy numbers: for
these an inert stand-in is built, so that nothing of NumPy runs either.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from voxfit.core.errors import ModelError

_COPY = "Copy it again from its source."


class _NumPyNumber:
    """Built in place of a NumPy number of the training log, and of its type; nobody reads them."""

    def __init__(self, *_arguments: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


# NumPy 2 gave `numpy.core` an underscore; checkpoints keep the name of the day they were written.
_STAND_INS = [
    (_NumPyNumber, name) for name in ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
]


@dataclass(frozen=True)
class Checkpoint:
    """What the import needs of a checkpoint.

    Attributes:
        weights: of the network, by the names that they have in the file.
        configuration: nnU-Net's name of it, "3d_fullres".
        trainer: the class that trained it.
        mirror_axes: of the network's axes, along which predictions may be mirrored.
    """

    weights: dict[str, torch.Tensor]
    configuration: str
    trainer: str
    mirror_axes: tuple[int, ...]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read `checkpoint_final.pth`; tensors stay on disk until they are used.

    Raises:
        ModelError: the file is missing or damaged, would run code, or is no checkpoint of nnU-Net v2.
    """
    if torch.__version__ < "2.6":  # compared as versions, and not as text
        raise ModelError(
            f"{path}: PyTorch {torch.__version__} cannot read foreign checkpoints safely. Install PyTorch 2.6 or later."
        )
    body = _read(path)
    if not isinstance(body, Mapping):
        raise _foreign(path, f"it holds a {type(body).__name__}")
    # nnU-Net itself takes a checkpoint without mirror axes as one that is not mirrored.
    weights, arguments, trainer = (body.get(key) for key in ("network_weights", "init_args", "trainer_name"))
    axes = body.get("inference_allowed_mirroring_axes") or ()
    if not isinstance(weights, Mapping) or not weights or not all(map(_is_weight, weights.items())):
        raise _foreign(path, '"network_weights" is missing, or holds something else than named tensors')
    configuration = arguments.get("configuration") if isinstance(arguments, Mapping) else None
    if not isinstance(configuration, str):
        raise _foreign(path, '"init_args" does not name the configuration')
    if not isinstance(trainer, str):
        raise _foreign(path, '"trainer_name" is missing')
    if not isinstance(axes, list | tuple) or not all(type(axis) is int and 0 <= axis < 3 for axis in axes):
        raise _foreign(path, '"inference_allowed_mirroring_axes" are not axes')
    return Checkpoint(dict(weights), configuration, trainer, tuple(axes))


def _read(path: Path) -> Any:
    """The content of the file; nothing in it runs."""
    if not path.is_file():
        raise ModelError(f"{path}: there is no such file.")
    if not zipfile.is_zipfile(path):
        raise ModelError(f"{path}: is no checkpoint of nnU-Net v2, or incomplete. {_COPY}")
    with torch.serialization.safe_globals(list(_STAND_INS)):
        try:
            # PyTorch does not look at the checksums of its own files.
            with zipfile.ZipFile(path) as archive:
                if (part := archive.testzip()) is not None:
                    raise ModelError(f"{path}: is damaged (at {part}). {_COPY}")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except ModelError:
            raise
        except Exception as error:  # a file made to confuse the reader can make it raise anything
            raise _refused(path, error) from None


def _refused(path: Path, error: Exception) -> ModelError:
    """What the reader stopped at."""
    with contextlib.suppress(Exception):
        if needed := torch.serialization.get_unsafe_globals_in_checkpoint(path):
            return ModelError(
                f"{path}: reading it would run {', '.join(sorted(needed)[:5])}, which could do anything, so it was not "
                "read. Ask for a checkpoint that holds only tensors, numbers and text."
            )
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    return ModelError(f"{path}: cannot be read ({reason[:200]}). {_COPY}")


def _is_weight(item: tuple[object, object]) -> bool:
    name, value = item
    return (
        isinstance(name, str)
        and isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
    )


def _foreign(path: Path, what: str) -> ModelError:
    return ModelError(
        f"{path}: {what}, so it is no checkpoint of nnU-Net v2. Name a folder that nnUNetv2_train has written."
    )

"""Weights files: found, compared with their checksums, and read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from voxfit.core.errors import ModelError
from voxfit.core.records import checksum_of
from voxfit.inference.model_json import Member

Weights = dict[str, NDArray[np.float32]]
"""The tensors of a network, by PyTorch's names."""


def verified_files(member: Member, folder: Path) -> list[Path]:
    """The weights files of a member of a model, compared with the checksums.

    Raises:
        ModelError: one is not what the model was made with.
    """
    for file, checksum in zip(member.weights, member.checksums, strict=False):
        path = folder / file
        if path.is_file() and checksum_of(path) != checksum:
            raise ModelError(
                f"{path}: the weights are not those that the model was made with. Restore the model folder from its "
                "source."
            )
    return [folder / file for file in member.weights]


def read_weights(path: Path) -> Weights:
    """The tensors of a weights file.

    Raises:
        ModelError: it is missing or damaged.
    """
    try:
        return safetensors.numpy.load_file(path)
    except FileNotFoundError:
        raise ModelError(f"{path}: the weights file is missing. Restore the model folder from its source.") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: the weights file is damaged ({error}). Restore it from its source.") from None


def fitting(weights: Mapping[str, NDArray[np.float32]], name: str, shape: Sequence[int]) -> NDArray[np.float32]:
    """The tensor of a name, of the shape that a network has.

    Raises:
        ModelError: there is none, or it has another shape.
    """
    values = weights.get(name)
    if values is None or values.shape != tuple(shape):
        found = "is not there" if values is None else f"has the shape {list(values.shape)}"
        raise ModelError(f"the weights are of another network ({name} {found} in place of {list(shape)}).")
    return values


def require_no_others(unused: Iterable[str]) -> None:
    """Whether a network has a place for all weights.

    Raises:
        ModelError: it has none for these.
    """
    if name := min(unused, default=None):
        raise ModelError(f"the weights are of another network (which has no {name}).")

"""Changes of some rows of a batch, made together: for small patches the overhead of a call outweighs its work."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

_Value = TypeVar("_Value")

_TOGETHER = 2**17
"""Voxels that are changed together on a CPU, whose cache holds them."""


def change_rows(
    rows: torch.Tensor,
    values: Sequence[tuple[int, _Value]],
    change: Callable[[torch.Tensor, list[_Value]], torch.Tensor],
) -> None:
    """Change some rows of (row, ...), in place.

    Args:
        rows: what is changed.
        values: the numbers of the rows, and for each what `change` needs to know.
        change: takes (some, ...) rows and their values; returns what becomes of them. It may write into what it gets.
    """
    voxels = math.prod(rows.shape[1:])
    together = max(_TOGETHER // voxels, 1) if rows.device.type == "cpu" else len(rows)
    for first in range(0, len(values), together):
        some = values[first : first + together]
        known = [value for _, value in some]
        if len(some) == 1:
            part = rows[some[0][0]][None]  # a view: nothing is copied
            changed = change(part, known)
            if changed is not part:
                part.copy_(changed)
        else:
            chosen = torch.tensor([row for row, _ in some], device=rows.device)
            rows[chosen] = change(rows[chosen], known)


def column(values: Sequence[float], rows: torch.Tensor) -> torch.Tensor:
    """A number for each row of (row, ...), to compute with them."""
    return torch.tensor(values, dtype=rows.dtype, device=rows.device).view(-1, *(1,) * (rows.ndim - 1))


def row_statistics(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean, smallest and largest value of each row of (row, ...), shaped to compute with them."""
    axes = tuple(range(1, rows.ndim))
    return rows.mean(axes, keepdim=True), rows.amin(axes, keepdim=True), rows.amax(axes, keepdim=True)


def along_axes(rows: torch.Tensor, matrices: Sequence[NDArray[np.float32]]) -> torch.Tensor:
    """Multiply each axis of each row by a matrix of its own.

    Args:
        rows: (row, *sizes).
        matrices: for each axis (row, new size, size).

    Returns:
        (row, *new sizes).
    """
    for matrix in reversed(matrices):
        flat = rows.flatten(1, -2)
        # The last axis becomes the first, so that after all of them the order is the old one.
        turned = torch.bmm(torch.from_numpy(matrix).to(rows.device), flat.transpose(1, 2))
        rows = turned.view(len(rows), matrix.shape[1], *rows.shape[1:-1])
    return rows

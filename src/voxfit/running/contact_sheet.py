"""A picture of what training sees: augmented patches of a run, with the outlines of their labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from voxfit.core.errors import UsageError, WorkspaceError
from voxfit.core.layout import Layout
from voxfit.learning.sampling import TRAINING, PatchSampler
from voxfit.planning.plan import ConfigurationName, Plan
from voxfit.planning.recipes import Recipe
from voxfit.planning.settings import Settings
from voxfit.preprocessing.normalization import masked_channels
from voxfit.preprocessing.store import Store

_COLOURS = np.array([(230, 60, 60), (70, 200, 90), (80, 140, 255), (240, 200, 40), (220, 90, 220), (60, 210, 220)])
_EDGE = 128
"""Pixels of a patch's longer side, about."""


def draw_contact_sheet(run: Path, name: str, path: Path, *, rows: int = 4, columns: int = 8) -> None:
    """Draw augmented training patches of a prepared run: for volumes the slice with most foreground.

    Args:
        run: a run folder with plan and store.
        name: of the configuration.
        path: of the PNG file.
        rows, columns: of the sheet.

    Raises:
        WorkspaceError: the run has not been prepared yet.
        UsageError: there is no such configuration.
    """
    layout = Layout(run)
    if not layout.plan.exists():
        raise WorkspaceError(f"{run}: is no run folder (it has no plan.json).")
    settings = Settings.load(layout.training) if layout.training.exists() else None
    plan, recipe = (settings.plan, settings.recipe) if settings else (Plan.load(layout.plan), Recipe())
    chosen: ConfigurationName | None = next((known for known in plan.configurations if known == name), None)
    if chosen is None:
        raise UsageError(f"{name}: the plan has {', '.join(plan.configurations)}.")
    configuration = plan.configurations[chosen].revised(batch_size=rows * columns, previous=None)
    folder = layout.store(plan.grid(chosen).folder)
    if not (folder / "manifest.json").exists():
        raise WorkspaceError(f"{run}: its cases are not prepared yet; `voxfit fit` does that first.")
    store = Store(folder)
    cases = sorted(store.manifest.voxels)
    sampler = PatchSampler(
        store,
        cases,
        configuration,
        recipe,
        labels=plan.labels,
        channels=len(plan.channel_names),
        seed=recipe.seed,
        masked_channels=masked_channels(plan.normalization),
    )
    image, label = sampler.finish(sampler.batch(TRAINING, 0, 0), torch.device("cpu"))
    tiles = [_tile(image[index, 0].numpy(), label[index].numpy()) for index in range(rows * columns)]
    sheet = np.concatenate([np.concatenate(tiles[row * columns : (row + 1) * columns], axis=1) for row in range(rows)])
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(sheet, isVector=True), str(path))


def _tile(image: NDArray[np.float32], label: NDArray[np.int16]) -> NDArray[np.uint8]:
    """A patch as an RGB picture with a border."""
    if image.ndim == 3:
        # Across the shortest axis, where slices are largest.
        axis = int(np.argmin(image.shape))
        place = int((label > 0).sum(axis=tuple(other for other in range(3) if other != axis)).argmax())
        image = np.take(image, [place], axis).squeeze(axis)
        label = np.take(label, [place], axis).squeeze(axis)
    factor = max(_EDGE // max(image.shape), 1)
    image = np.repeat(np.repeat(image, factor, 0), factor, 1)
    label = np.repeat(np.repeat(label, factor, 0), factor, 1)
    low, high = np.percentile(image, [1, 99])
    grey = np.clip((image - low) / max(float(high - low), 1e-6) * 255, 0, 255).astype(np.uint8)
    picture = np.repeat(grey[..., None], 3, axis=2)
    for index in range(1, int(label.max()) + 1):
        picture[_outline(label == index)] = _COLOURS[(index - 1) % len(_COLOURS)]
    return np.pad(picture, ((2, 2), (2, 2), (0, 0)))


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a mask that have a neighbour outside of it."""
    inside = np.pad(mask, 1)
    whole = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    return mask & ~whole

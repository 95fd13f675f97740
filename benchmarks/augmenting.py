"""Rows: augmented batches, by nnU-Net v2's probabilities and ranges."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.outputs import numbers
from benchmarks.row import Kernel, Row, Setting, Target

ROTATION = (-30.0 / 360 * 2.0 * math.pi, 30.0 / 360 * 2.0 * math.pi)
"""Radians, of patches that are not flat (nnUNetTrainer)."""


def our_batches(patch: tuple[int, ...], size: int, batches: int, setting: Setting) -> Callable[[], Any]:
    """Draw, cut from the store, change; returns what the batches look like."""
    from voxfit.imaging.labels import Label, Labels
    from voxfit.learning.sampling import TRAINING, PatchSampler
    from voxfit.planning.plan import Configuration
    from voxfit.planning.recipes import recipe_named
    from voxfit.preprocessing.store import Store

    configuration = Configuration(
        spacing=(1.0, 1.0, 1.0),
        median_shape=patch,
        patch_size=patch,
        batch_size=size,
        num_pool=(0, 0, 0),
        base_features=1,
        max_features=None,
        dice="batch",
        augmentation="3d",
    )
    sampler = PatchSampler(
        Store(_store(patch, setting)),
        ("case",),
        configuration,
        recipe_named("nnunet-v2"),
        labels=Labels(classes=tuple(Label(name=f"class {value}", value=value) for value in (1, 2, 3))),
        channels=1,
        seed=0,
    )
    import torch

    steps, device = count(), torch.device(setting.device)

    def run() -> dict[str, Any]:
        for _ in range(_few(batches, setting)):
            image, label = sampler.finish(sampler.batch(TRAINING, 0, next(steps)), device)
        return _described(image, label[:, None])

    return run


def their_batches(patch: tuple[int, ...], size: int, batches: int, setting: Setting) -> Callable[[], Any]:
    """Its transforms, from boxes of the size that its loader cuts, which lie in memory."""
    import numpy as np
    import torch
    from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size

    transforms = their_transforms(patch)
    box = [int(edge) for edge in get_patch_size(patch, ROTATION, ROTATION, ROTATION, (0.85, 1.25))]
    image, label = (array[(slice(None), *map(slice, box))] for array in _case(max(box), 1))
    assert image.shape[1:] == tuple(box)

    def one() -> dict[str, Any]:
        made: dict[str, Any] = transforms(
            image=torch.from_numpy(image.copy()), segmentation=torch.from_numpy(label.astype(np.int16, copy=True))
        )
        return made

    def run() -> dict[str, Any]:
        for _ in range(_few(batches, setting)):
            done = [one() for _ in range(size)]
            images = torch.stack([item["image"] for item in done])
            labels = torch.stack([item["segmentation"] for item in done])
        return _described(images, labels)

    return run


def their_transforms(patch: tuple[int, ...]) -> Any:
    """What its trainer makes, without the shrunk labels of deep supervision."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    return nnUNetTrainer.get_training_transforms(
        patch, ROTATION, None, (0, 1, 2), False, use_mask_for_norm=[False], foreground_labels=(1, 2, 3)
    )


def check(patch: tuple[int, ...], setting: Setting, folder: Path) -> str:
    """What both drew from: the geometric half here, the intensities in tests/oracles."""
    from voxfit.planning.recipes import recipe_named

    ours = recipe_named("nnunet-v2").augmentation_3d
    spatial = their_transforms(patch).transforms[0]
    found = (spatial.p_rotation, spatial.p_scaling, tuple(spatial.scaling), spatial.p_elastic_deform)
    expected = (ours.rotation_probability, ours.scale_probability, ours.scale, ours.elastic_probability)
    assert found == expected, f"{found} and {expected}"
    assert math.isclose(math.degrees(max(ROTATION)), ours.rotation_degrees)
    left, right = numbers(folder, "voxfit"), numbers(folder, "batchgeneratorsv2")
    assert left == right, f"{left} and {right}"
    return "same probabilities and ranges, shapes and types"


def _described(image: Any, label: Any) -> dict[str, Any]:
    return {"image": list(image.shape), "label": list(label.shape), "type": str(image.dtype)}


def _few(batches: int, setting: Setting) -> int:
    return 2 if setting.quick else batches


def _case(edge: int, channels: int) -> tuple[Any, Any]:
    """Image and label, (channel, z, y, x)."""
    import numpy as np

    rng = np.random.default_rng(0)
    image = rng.normal(size=(channels, edge, edge, edge)).astype(np.float32)
    return image, np.digitize(image[:1], [0.5, 1.0, 1.5])


def _store(patch: tuple[int, ...], setting: Setting) -> Path:
    """A store with one large case."""
    import numpy as np

    from voxfit.imaging.geometry import Box, Geometry
    from voxfit.preprocessing.case import PreparedCase, PreprocessingGeometry
    from voxfit.preprocessing.store import write_case, write_manifest

    folder = setting.folder(f"augmented_{patch[0]}")
    if not (folder / "manifest.json").exists():
        image, label = _case(2 * max(patch), 1)
        shape = image.shape[1:]
        placement = PreprocessingGeometry(Geometry(shape, (1.0, 1.0, 1.0)), Box((0, 0, 0), shape), shape)
        write_case(folder, "case", PreparedCase(image, label[0].astype(np.int16), placement), 4)
        write_manifest(folder, ["case"], "")
    return folder


def _row(name: str, patch: tuple[int, ...], size: int, batches: int) -> Row:
    words = "x".join(map(str, patch))
    return Row(
        name=name,
        title=f"{batches} augmented batches of {size} patches of {words}, one thread",
        ours=(Kernel("voxfit", partial(our_batches, patch, size, batches), Target(speed=3)),),
        theirs=(Kernel("batchgeneratorsv2", partial(their_batches, patch, size, batches)),),
        check=partial(check, patch),
        threads=1,
    )


ROWS = (_row("augment128", (128, 128, 128), 2, 10), _row("augment40", (40, 56, 40), 9, 20))

"""Unfinished trainings on disk: tensors and counters in one safetensors file whose name holds its checksum."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from voxfit.core.errors import RecordError
from voxfit.core.records import write_atomically
from voxfit.learning.schedule import Progress

_NAME = re.compile(r"epoch_(\d{6})(?:\.(\d{6}))?-([0-9a-f]{16})\.safetensors$")
_GENERATIONS = 2


def save_checkpoint(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write a checkpoint and keep the one before it.

    Args:
        folder: of this training's checkpoints, and of no other's.
        model, optimizer, progress: the whole state; randomness comes from counters, so there is no generator to keep.
    """
    tensors = {f"model.{name}": tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value.contiguous() for key, value in values.items()}
    content = safetensors.torch.save(tensors, {"progress": progress.to_json()})
    checksum = hashlib.sha256(content).hexdigest()[:16]
    write_atomically(folder / f"epoch_{progress.epoch:06d}.{progress.step:06d}-{checksum}.safetensors", content)
    for old in _newest_first(folder)[_GENERATIONS:]:
        old.unlink(missing_ok=True)


def load_checkpoint(
    folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Progress | None, list[str]]:
    """Bring model and optimiser to the newest usable checkpoint; others are removed.

    They would count as one of the two that are kept, and a good one would go for them.

    Returns:
        its progress, or None where there is no usable one; and a warning for each damaged file.
    """
    warnings = []
    for path in _newest_first(folder):
        content = path.read_bytes()
        match = _NAME.search(path.name)
        if match is None or hashlib.sha256(content).hexdigest()[:16] != match[3]:
            warnings.append(f"{path} is damaged (its checksum differs); the checkpoint before it is used.")
            path.unlink()
            continue
        try:
            with safe_open(path, framework="pt") as file:
                progress = Progress.from_json((file.metadata() or {})["progress"], str(path))
        except (SafetensorError, KeyError, RecordError) as error:
            warnings.append(f"{path} cannot be used ({error}); the checkpoint before it is.")
            path.unlink()
            continue
        _restore(safetensors.torch.load(content), model, optimizer)
        return progress, warnings
    return None, warnings


def _restore(tensors: dict[str, torch.Tensor], model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model.load_state_dict({name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model.")})
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _newest_first(folder: Path) -> list[Path]:
    found = [(match, path) for path in folder.glob("epoch_*") if (match := _NAME.search(path.name))]
    ages = [(int(match[1]), int(match[2] or 0), path.stat().st_mtime, path) for match, path in found]
    return [path for *_, path in sorted(ages, reverse=True)]

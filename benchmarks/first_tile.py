"""`python -m benchmarks.first_tile MODEL IMAGES OUTPUT`: prints the seconds from torch's import to the first tile."""

from __future__ import annotations

import os
import sys
from time import perf_counter
from typing import Any

import torch


def main(arguments: list[str]) -> None:
    """`voxfit predict` by PyTorch, ended when its network is called for the first time."""
    begun = perf_counter()

    def first(module: torch.nn.Module, _inputs: Any) -> None:
        print(perf_counter() - begun, flush=True)
        os._exit(0)

    torch.nn.modules.module.register_module_forward_pre_hook(first)
    from voxfit.cli import main as voxfit

    model, images, output = arguments
    sys.argv = [
        "voxfit",
        "predict",
        model,
        images,
        "-o",
        output,
        "--device",
        "cpu",
        "--no-mirror",
        "--backend",
        "torch",
    ]
    voxfit()


if __name__ == "__main__":
    main(sys.argv[1:])

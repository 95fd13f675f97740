"""Row: one network by one tile at a time, which is all that the engines of a prediction differ in."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from benchmarks.outputs import array, furthest
from benchmarks.predicting import missing_int8, ready_large
from benchmarks.row import Kernel, Row, Setting

PASSES = 4
TOLERANCE = 1e-3
"""Of the range of the logits: both engines add up in single precision, in another order, through 22 layers."""


def model(setting: Setting, engine: Literal["torch", "openvino"], precision: Literal["float32", "int8"]) -> Any:
    """The Hippocampus network, as `voxfit predict` runs it."""
    from voxfit.inference.model import Model

    folder = setting.work / "bench" / "model"
    return Model.open(folder, "cpu", mirror=False, backend=engine, precision=precision, accept_loss=True)


def passes(
    engine: Literal["torch", "openvino"], precision: Literal["float32", "int8"], setting: Setting
) -> Callable[[], Any]:
    """Logits of a tile of noise."""
    import numpy as np

    (predictor,) = model(setting, engine, precision).predictors.values()
    noise = np.random.default_rng(0).standard_normal((1, 1, *predictor.patch_box), np.float32)
    tile, network = predictor.arrays.here(noise), predictor.networks[0]

    def run() -> Any:
        for _ in range(1 if setting.quick else PASSES):
            logits = network(tile)
        return np.array(predictor.arrays.to_numpy(logits))

    return run


def missing_openvino(setting: Setting) -> str | None:
    """Why there is none."""
    from voxfit.inference.backend import is_installed

    return None if is_installed("openvino") else "OpenVINO is not installed"


def check(setting: Setting, folder: Path) -> str:
    """The logits of OpenVINO, and what eight bits decide, against PyTorch's."""
    from voxfit.planning.architecture import multiplications

    plan = model(setting, "torch", "float32").plan
    (name,) = plan.configurations
    work = 2 * multiplications(plan.topology(name), plan.configurations[name].patch_size)
    expected = array(folder, "PyTorch")
    words = f"{work / 1e9:.1f} GFLOP a tile"
    if (folder / "OpenVINO" / "output.npy").exists():
        found = furthest(array(folder, "OpenVINO"), expected)
        assert found <= TOLERANCE, f"OpenVINO: {found:.1e} of the range, more than {TOLERANCE:g}"
        words += f"; OpenVINO within {found:.0e} of the range of the logits (tolerance {TOLERANCE:g})"
    if (folder / "INT8" / "output.npy").exists():
        equal = float((array(folder, "INT8").argmax(1) == expected.argmax(1)).mean())
        words += f"; INT8 decides {100 * equal:.1f} % of a tile of noise alike"
    return words


ROWS = (
    Row(
        name="tile",
        title=f"{PASSES} passes of the Hippocampus network, one tile each",
        ours=(
            Kernel("OpenVINO", partial(passes, "openvino", "float32"), missing=missing_openvino),
            Kernel(
                "INT8",
                partial(passes, "openvino", "int8"),
                missing=missing_int8,
                precision=lambda device: "int8, sums float32",
            ),
        ),
        theirs=(Kernel("PyTorch", partial(passes, "torch", "float32")),),
        check=check,
        ready=ready_large,
    ),
)

"""`python -m benchmarks.converters`: the graph that voxfit writes for OpenVINO, beside OpenVINO's converter and NNCF.

The network is the paper's for Hippocampus (patch 40x56x40, width 30), weights at random. Each side runs in processes of
its own, in turn, each time in the other order: from the start of Python to the first tile with its peak memory, then
the median of some tiles. INT8 by NNCF is measured where `nncf` is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter, time
from typing import Any

PATCH = (40, 56, 40)
TILES = 8
CALIBRATION = 4
"""Tiles."""
SIDES = {"written": "", "converted": "", "written INT8": "", "NNCF INT8": "nncf"}
"""And the package that each needs."""


def main(arguments: list[str]) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.converters", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        _run(options.side, options.folder)
        return 0
    sides = [side for side, package in SIDES.items() if not package or importlib.util.find_spec(package)]
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        _make(Path(folder))
        for number in range(options.repeats):
            for side in sides if number % 2 else reversed(sides):
                found[side].append(_measure(side, Path(folder)))
        _tell(found, Path(folder))
    return 0


def _measure(side: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.converters", "--side", side, "--folder", str(folder)]
    environment = os.environ | {"STARTED": repr(time())}
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def _tell(found: dict[str, list[dict[str, float]]], folder: Path) -> None:
    import numpy as np

    expected = np.load(folder / "written.npy")
    print("| graph | start to first tile, s | peak MiB | a tile, ms | furthest logit, of their range | decided alike |")
    print("|---|---|---|---|---|---|")
    for side, runs in found.items():
        start, peak, tile = (median(run[key] for run in runs) for key in ("start", "peak", "tile"))
        logits = np.load(folder / f"{side}.npy")
        error = float(np.abs(logits - expected).max() / np.ptp(expected))
        alike = 100 * float((logits.argmax(1) == expected.argmax(1)).mean())
        print(f"| {side} | {start:.2f} | {peak:.0f} | {1000 * tile:.0f} | {error:.0e} | {alike:.2f} % |")


def _topology() -> Any:
    from voxfit.planning.architecture import Topology, paper_stages

    return Topology(in_channels=1, out_channels=3, **dict(paper_stages((3, 3, 3), 30, 320)))


def _make(folder: Path) -> None:
    """The weights, and the ranges that INT8 needs."""
    import safetensors.torch
    import torch

    from voxfit.inference.rounding import observe_ranges
    from voxfit.networks.unet import UNet

    torch.manual_seed(0)
    network = UNet(_topology()).eval()
    (folder / "weights.safetensors").write_bytes(safetensors.torch.save(network.state_dict()))
    ranges = observe_ranges(network, map(torch.from_numpy, _noise(CALIBRATION)))
    (folder / "ranges.json").write_text(json.dumps(ranges))


def _noise(count: int) -> list[Any]:
    import numpy as np

    rng = np.random.default_rng(0)
    return [rng.standard_normal((1, 1, *PATCH), np.float32) for _ in range(count)]


def _run(side: str, folder: Path) -> None:
    """One side in this process; prints what it took."""
    import resource

    import numpy as np

    network = _written(folder, "INT8" in side) if side.startswith("written") else _converted(folder, "INT8" in side)
    (tile,) = _noise(1)
    logits = network(tile).copy()
    start, peak = time() - float(os.environ["STARTED"]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = []
    for _ in range(TILES):
        begun = perf_counter()
        network(tile)
        seconds.append(perf_counter() - begun)
    np.save(folder / f"{side}.npy", logits)
    print(json.dumps({"start": start, "peak": peak, "tile": median(seconds)}))


def _written(folder: Path, rounded: bool) -> Any:
    from voxfit.inference.openvino_graph import OpenVinoNetwork
    from voxfit.inference.weights import read_weights

    ranges = json.loads((folder / "ranges.json").read_text()) if rounded else None
    return OpenVinoNetwork(_topology(), read_weights(folder / "weights.safetensors"), PATCH, ranges=ranges)


def _converted(folder: Path, rounded: bool) -> Any:
    import openvino
    import safetensors.torch
    import torch

    from voxfit.core.parallel import available_cores
    from voxfit.networks.unet import build_network

    network = build_network(_topology(), 0).eval()
    network.load_state_dict(safetensors.torch.load_file(folder / "weights.safetensors"))
    graph = openvino.convert_model(network, example_input=torch.zeros(1, 1, *PATCH))
    if rounded:
        import nncf

        graph = nncf.quantize(graph, nncf.Dataset(_noise(CALIBRATION)), subset_size=CALIBRATION)
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": available_cores(),
    }
    request = openvino.Core().compile_model(graph, "CPU", settings).create_infer_request()
    return lambda tile: request.infer([tile], share_inputs=True, share_outputs=True)[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What a measurement was made on."""

from __future__ import annotations

import os
import subprocess
from importlib.metadata import distributions
from pathlib import Path

from benchmarks.row import ROOT

PACKAGES = ("torch", "numpy", "scipy", "scikit-image", "nnunetv2", "batchgeneratorsv2", "monai", "openvino", "nncf")


def describe_machine() -> dict[str, str | int]:
    """CPU, cores that may be used, memory, GPU."""
    described: dict[str, str | int] = {
        "cpu": _value("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(_value("/proc/meminfo", "MemTotal").split()[0]) / 2**20),
    }
    if gpu := _said(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]):
        described["gpu"] = gpu.splitlines()[0]
    return described


def versions() -> dict[str, str]:
    """Of the packages that are compared, and of what both stand on."""
    installed = {item.name.lower().replace("_", "-"): item.version for item in distributions() if item.name}
    return {name: installed[name] for name in PACKAGES if name in installed}


def commit() -> str:
    """Of the working tree; with a "+" where files differ from it. A copy without git is told by VOXFIT_COMMIT."""
    name = _said(["git", "rev-parse", "--short", "HEAD"]) or os.environ.get("VOXFIT_COMMIT") or "unknown"
    # What this program writes itself is no difference.
    own = [":!docs/benchmarks.md", ":!benchmarks/results.json"]
    return name + "+" * bool(_said(["git", "status", "--porcelain", "--untracked-files=no", "--", ".", *own]))


def _value(path: str, key: str) -> str:
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return "0"


def _said(line: list[str]) -> str:
    try:
        return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""

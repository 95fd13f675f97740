"""What a measurement was made on."""

from __future__ import annotations

import os
import resource
import subprocess
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from time import perf_counter

from benchmarks.row import ROOT

PACKAGES = ("torch", "numpy", "scipy", "scikit-image", "nnunetv2", "batchgeneratorsv2", "monai", "openvino")


def busy_seconds(stat: str) -> float:
    """Of all cores since the machine began: all but idle and waiting for disks; guests are in user and nice."""
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, stat.split("\n", 1)[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(item.ru_utime + item.ru_stime for item in used)


@dataclass
class OtherWork:
    """What else the machine did since this was made, other machines on the same processor included."""

    begun: float = field(default_factory=perf_counter)
    busy: float = field(default_factory=lambda: busy_seconds(Path("/proc/stat").read_text()))
    own: float = field(default_factory=_own_seconds)

    def seconds(self) -> float:
        """Of a core. Own processes are told apart once they were waited for."""
        busy = busy_seconds(Path("/proc/stat").read_text()) - self.busy
        return max(busy - (_own_seconds() - self.own), 0.0)

    def cores(self) -> float:
        """How many it kept busy on average."""
        return self.seconds() / (perf_counter() - self.begun)


def describe_machine() -> dict[str, str | int]:
    """CPU, cores that may be used, memory, GPU."""
    described: dict[str, str | int] = {
        "cpu": _value("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(_value("/proc/meminfo", "MemTotal").split()[0]) / 2**20),
        "eight_bits": _eight_bits(_value("/proc/cpuinfo", "flags").split()),
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


def _eight_bits(flags: list[str]) -> str:
    """The best instructions that there are for INT8."""
    known = {"amx_int8": "AMX", "avx512_vnni": "AVX-512 VNNI", "avx_vnni": "AVX VNNI", "avx512f": "AVX-512, no VNNI"}
    return next((words for flag, words in known.items() if flag in flags), "no VNNI")


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

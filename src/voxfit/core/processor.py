"""What the processor is, as the system tells it."""

from __future__ import annotations

import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def processor_name() -> str:
    """The model, "AMD EPYC 9R14"; as much as the system says."""
    return _described().get("model name") or platform.processor() or platform.machine()


def _described() -> dict[str, str]:
    """The first processor of Linux's list."""
    try:
        lines = _CPUINFO.read_text(errors="replace").split("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}

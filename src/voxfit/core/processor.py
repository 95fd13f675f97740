"""What the processor is, as the system tells it."""

from __future__ import annotations

import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def processor_name() -> str:
    """The model, "AMD EPYC 9R14"; as much as the system says."""
    return _described().get("model name") or platform.processor() or platform.machine()


def multiplies_bytes() -> bool | None:
    """Whether it has instructions (VNNI) that sum products of 8-bit integers exactly; None where nobody knows."""
    flags = _described().get("flags")
    return None if flags is None else any(flag in flags.split() for flag in ("avx512_vnni", "avx_vnni"))


def _described() -> dict[str, str]:
    """The first processor of Linux's list."""
    try:
        lines = _CPUINFO.read_text(errors="replace").split("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}

"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Iterable


def format_duration(seconds: float) -> str:
    """About how long: "45 s", "12 min", "3.5 h", "2.1 days"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def format_seconds(seconds: float) -> str:
    """To the second: "45 s", "10 min 59 s", "2 h 5 min 0 s"."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h " * bool(hours) + f"{minutes} min " * bool(minutes or hours) + f"{rest} s"


def format_bytes(size: float) -> str:
    """ "1.5 GiB"."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def format_sizes(sizes: Iterable[float]) -> str:
    """ "40 x 56 x 40", "1 x 0.7676 x 0.7676"."""
    return " x ".join(f"{size:.4g}" if isinstance(size, float) else str(size) for size in sizes)

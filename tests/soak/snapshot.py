"""What two runs must have in common, byte for byte; what may differ is listed here, and nowhere else."""

import hashlib
import json
import re
from pathlib import Path

CLOCKS = {
    "history.jsonl": {"seconds", "wait_share", "teraflops", "peak_share"},
    "manifest.json": {"seconds"},
}
"""Keys that hold measured times and speeds, by the name of their file; the rest of these files is compared."""
CLOCKS_IN_TEXT = re.compile(r"(\d+:)?\d+:\d\d|\d+ (h|min|s)\b( \d+ (min|s)\b)?")
"""Durations in the report."""


def take(folder):
    """Digest of every file of a folder, hidden ones too, by its path in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _digest(path) for path in files}


def differences(one, other):
    """The paths that are in one of two snapshots only, or differ."""
    return sorted(path for path in one.keys() | other.keys() if one.get(path) != other.get(path))


def _digest(path):
    content = path.read_bytes()
    if keys := CLOCKS.get(path.name):
        content = "\n".join(_without(line, keys) for line in _documents(path, content)).encode()
    if path.name == "report.html":
        content = CLOCKS_IN_TEXT.sub("-", content.decode()).encode()
    return hashlib.sha256(content).hexdigest()


def _documents(path: Path, content):
    return content.decode().splitlines() if path.suffix == ".jsonl" else [content.decode()]


def _without(text, keys):
    return json.dumps({key: value for key, value in json.loads(text).items() if key not in keys})

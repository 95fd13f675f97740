"""A process that has imported all but voxfit and its tests; those of test runs are forked from it, and begin at once.

Each line that it reads is a JSON list: a file for the output, then the arguments of pytest. It answers with the number
of the process, and when that has ended, with its exit code.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest

_IMPORTED = (
    *("numpy", "scipy.ndimage", "scipy.special", "skimage.transform", "SimpleITK", "nibabel", "cc3d", "pydantic"),
    *("typer", "rich.console", "rich.live", "torch", "lightning_fabric", "safetensors.torch", "openvino"),
)


def main() -> None:
    """Answer lines until there are no more."""
    for name in _IMPORTED:
        with suppress(ImportError):
            import_module(name)
    for line in sys.stdin:
        output, *arguments = json.loads(line)
        child = os.fork()
        if not child:
            _test(Path(output), arguments)
        _say(child)
        _say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _test(output: Path, arguments: list[str]) -> None:
    os.setsid()
    handle = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(handle, stream.fileno())
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
    code = pytest.main(arguments)
    sys.stdout.flush()
    os._exit(int(code))


def _say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

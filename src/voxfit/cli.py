"""The command line's frame: interruptions, and errors as one message each."""

from __future__ import annotations

import os
import signal
import sys

from voxfit.core.errors import DatasetError, VoxfitError
from voxfit.core.interruption import Interrupted, interrupt

RESUME_ME = 75
"""Exit code after SIGTERM, sysexits' EX_TEMPFAIL: the same command, run again, goes on from there."""

ENVIRONMENT = {"THP_MEM_ALLOC_ENABLE": "1"}
"""PyTorch reads it with its first tensor: large ones in large pages are there sooner, and leave fewer gaps behind."""

_INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM)


def main() -> None:
    """Run the command line: errors are one message and an exit code, `--debug` shows where they come from."""
    debug = "--debug" in sys.argv[1:2]
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        for number in _INTERRUPTIONS:
            signal.signal(number, interrupt)
        from voxfit.commands import run

        sys.exit(run())
    except VoxfitError as error:
        if debug:
            raise
        sys.exit(_report(error))
    except Interrupted as interruption:
        for number in _INTERRUPTIONS:  # impatience does not interrupt the last words
            signal.signal(number, signal.SIG_IGN)
        text = "Interrupted. Everything finished is kept; the same command goes on from there."
        terminated = interruption.args[0] == signal.SIGTERM
        sys.exit(_say_last(text, RESUME_ME if terminated else 128 + int(interruption.args[0])))
    except MemoryError:
        if debug:
            raise
        sys.exit(_say_last("error: out of memory. Use a machine with more, smaller images or fewer --workers.", 1))


def _say_last(text: str, code: int) -> int:
    from voxfit.console import make_console

    console = make_console(stderr=True)
    console.show_cursor(True)  # a live display may have hidden it
    console.print(text, highlight=False)
    return code


def _report(error: VoxfitError) -> int:
    from voxfit.console import make_console

    console = make_console(stderr=True)
    problems = error.problems if isinstance(error, DatasetError) else [error]
    for problem in problems:
        console.print(f"error: {problem}", highlight=False, style="red")
    if len(problems) > 1:
        console.print(f"{len(problems)} problems.")
    return error.exit_code

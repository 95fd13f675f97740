"""Interruptions: Ctrl-C, and the SIGTERM with which a cluster or an operating system ends a process.

The command line installs `interrupt` as the handler of both. An interruption ends the work at once, except inside of
`deferred`: there the work goes on until it has brought itself to a state that can be resumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM; its argument is the number of the signal. Only the command line's `main` catches it."""


class Pending:
    """An interruption that waits for the end of a `deferred` block.

    Attributes:
        number: of the signal; None as long as there was none.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None


_blocks: list[Pending] = []
"""The `deferred` blocks that are open, innermost last. Signals are handled in the main thread only."""


def interrupt(number: int, frame: object = None) -> None:
    """Handle a signal: leave at once, or at the end of the `deferred` block. A second one never waits.

    Raises:
        Interrupted: outside of such a block, or where an interruption is waiting already.
    """
    if not _blocks or _blocks[-1]:
        raise Interrupted(number)
    _blocks[-1].number = number


@contextmanager
def deferred() -> Iterator[Pending]:
    """Put off interruptions to the end of the block, which may look at the value it is given, and end sooner."""
    waiting = Pending()
    _blocks.append(waiting)
    try:
        yield waiting
    finally:
        _blocks.remove(waiting)
    if waiting.number is not None:
        raise Interrupted(waiting.number)

"""Worker processes end with the process that they work for, also when it was killed.

A pool's workers hold both ends of their queues, so they would never notice. Each of them watches its parent's
sentinel: a pipe that the system closes when the parent ends, however that happens.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.connection import wait


def end_with_parent() -> None:
    """End this worker process, in the midst of its work, as soon as its parent is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_watch, args=(parent.sentinel,), name="voxfit-lifeline", daemon=True).start()


def _watch(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)  # nobody is left who would hear more

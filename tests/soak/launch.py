"""Run voxfit's command line, and send it a signal at its N-th write: a kill that hits the same place on any machine.

    python launch.py LOG FOLDER N SIGNAL process|group ARGUMENTS...

A write is everything that changes the folder: opening a file for writing, renaming, removing, making folders. The
signal comes just before it. With N = 0 none comes. LOG gets the time of the first write; where a signal was sent, what
it preceded; or, at a normal end, the number of writes.
"""

import atexit
import json
import os
import sys
import threading
import time
from pathlib import Path

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.copyfile", "os.truncate"}


class Watcher:
    """Counts writes into a folder."""

    def __init__(self, log, folder, at, number, whom):
        self.log, self.folder, self.at = Path(log), os.path.abspath(folder), at
        self.number, self.whom = number, whom
        self.count, self.begun, self.first = 0, time.monotonic(), 0.0
        self.guard = threading.RLock()

    def __call__(self, event, arguments):
        if event != "open" and event not in _CHANGES:
            return
        path = arguments[-1] if event == "shutil.copyfile" else arguments[0]
        if not isinstance(path, str | bytes | os.PathLike) or not _writes(event, arguments):
            return
        where = os.path.abspath(os.fsdecode(path))
        if not where.startswith(self.folder):
            return
        with self.guard:
            self.count += 1
            self.first = self.first or time.monotonic() - self.begun
            if self.count == self.at:
                self.write({"first": self.first, "at": f"{event} {os.path.relpath(where, self.folder)}"})
                send = os.killpg if self.whom == "group" else os.kill
                send(os.getpgrp() if self.whom == "group" else os.getpid(), self.number)

    def write(self, body):
        self.log.write_text(json.dumps(body))


def _writes(event, arguments):
    if event != "open":
        return True
    _, mode, flags = arguments
    if mode is not None:
        return any(letter in mode for letter in "wax+")
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


if __name__ == "__main__":
    watcher = Watcher(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
    atexit.register(lambda: watcher.at or watcher.write({"first": watcher.first, "writes": watcher.count}))
    sys.argv = ["voxfit", *sys.argv[6:]]
    from voxfit.cli import main

    sys.addaudithook(watcher)
    main()

"""Run voxfit's command line, and send it a signal at a certain write: a kill that hits the same place on any machine.

    python launch.py LOG FOLDER WRITE SIGNAL process|group ARGUMENTS...

A write is everything that changes the folder: opening a file for writing, renaming, removing, making folders. It is
called by what it does and to what, without digests of measured times and random letters. The signal comes just before
WRITE happens first; none comes where WRITE is empty. LOG gets the seconds until the first write, whether the signal was
sent, and at a normal end all writes, in the order in which they first happened.
"""

import atexit
import json
import os
import re
import sys
import threading
import time
from pathlib import Path

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.copyfile", "os.truncate"}


class Watcher:
    """Listens to the writes into a folder."""

    def __init__(self, log, folder, wanted, number, whom):
        self.log, self.folder, self.wanted = Path(log), os.path.abspath(folder), wanted
        self.number, self.whom = number, whom
        self.begun, self.first, self.seen = time.monotonic(), 0.0, {}
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
            self.first = self.first or time.monotonic() - self.begun
            write = f"{event.removeprefix('os.')} {_plain(os.path.relpath(where, self.folder))}"
            if write not in self.seen:
                self.seen[write] = None
                if write == self.wanted:
                    self.note(hit=True)
                    send = os.killpg if self.whom == "group" else os.kill
                    send(os.getpgrp() if self.whom == "group" else os.getpid(), self.number)

    def note(self, **more):
        self.log.write_text(json.dumps({"first": self.first, **more}))

    def end(self):
        if not self.wanted:
            self.note(writes=list(self.seen))


def _plain(path):
    path = re.sub(r"\.[a-z0-9_]{8}\.unfinished", ".unfinished", path)
    return re.sub(r"-[0-9a-f]{16}\.safetensors", "-*.safetensors", path)


def _writes(event, arguments):
    if event != "open":
        return True
    _, mode, flags = arguments
    if mode is not None:
        return any(letter in mode for letter in "wax+")
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


if __name__ == "__main__":
    watcher = Watcher(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
    atexit.register(watcher.end)
    sys.argv = ["voxfit", *sys.argv[6:]]
    from voxfit.cli import main

    sys.addaudithook(watcher)
    main()

"""Workers end with the process that they work for."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

CODE = """
import os, sys, time
from voxfit.core.parallel import LocalExecutor
list(LocalExecutor(2).map(time.sleep, [600.0] * 4))
"""


def session(number):
    """Living processes of a session."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it may end while we look
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == number and fields[0] not in "ZX":
                found[int(entry.name)] = (entry / "cmdline").read_text()
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux lists processes here")
def test_nobody_outlives_a_killed_parent():
    parent = subprocess.Popen([sys.executable, "-c", CODE], start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        # The parent, two helpers of Python's, two workers in the midst of their tasks.
        while len(session(parent.pid)) < 5:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(1)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        deadline = time.monotonic() + 20
        while session(parent.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert session(parent.pid) == {}
    finally:
        for process in session(parent.pid):
            os.kill(process, signal.SIGKILL)

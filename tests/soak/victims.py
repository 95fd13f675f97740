"""Starting a command in a process group of its own, and ending it in the middle."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

LAUNCH = Path(__file__).with_name("launch.py")
_GONE_SECONDS = 5.0


@dataclass(frozen=True)
class Moment:
    """When a signal comes, and to whom.

    Attributes:
        number: the signal.
        whom: "process", which must take its workers along, or "group", as a terminal and most clusters do.
        write: before this one happens first (see launch.py); or
        seconds: so long after its start.
    """

    number: signal.Signals
    whom: str
    write: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What came of a command.

    Attributes:
        code: exit status; negative for a signal.
        output: everything that it said.
        seconds: it lived.
        hit: the signal came before it had ended.
        first: seconds until its first write.
        writes: all of them, at a normal end.
        left: processes of its group that outlived it by seconds.
    """

    code: int
    output: str
    seconds: float
    hit: bool
    first: float = 0.0
    writes: tuple[str, ...] = ()
    left: int = 0


def run(arguments, folder, scratch, moment=None, limit=600.0):
    """Run the command line to its end, or to a moment."""
    log, said = scratch / "log.json", scratch / "output.txt"
    log.unlink(missing_ok=True)
    number, whom, at = (moment.number, moment.whom, moment.write) if moment else (0, "process", "")
    command = [sys.executable, LAUNCH, log, folder, at, int(number), whom, *arguments]
    begun = time.monotonic()
    with said.open("wb") as stream:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "COLUMNS": "200", "OMP_NUM_THREADS": "1"},
        )
    hit = False
    try:
        if moment and moment.seconds:
            hit = not _ended(process, moment.seconds)
            if hit:
                (os.killpg if whom == "group" else os.kill)(process.pid, number)
        process.wait(limit)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    seconds = time.monotonic() - begun
    body = json.loads(log.read_text()) if log.exists() else {}
    return Outcome(
        code=process.returncode,
        output=said.read_text(errors="replace"),
        seconds=seconds,
        hit=hit or "hit" in body,
        first=body.get("first", 0.0),
        writes=tuple(body.get("writes", ())),
        left=_left(process.pid),
    )


def _ended(process, seconds):
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _left(session):
    """How many processes of a session are still there after some seconds; those that are, are ended."""
    deadline = time.monotonic() + _GONE_SECONDS
    while (found := members(session)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in found:
        os.kill(process, signal.SIGKILL)
    return len(found)


def members(session):
    """Living processes of a session (Linux; elsewhere none are found)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] not in "ZX":
            found.append(int(entry.name))
    return found

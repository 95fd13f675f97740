"""A process of one side: `python -m benchmarks.worker WHAT ROW SIDE SETTING FOLDER`.

`kernel` prepares, then runs once for each line that it reads, and answers with the seconds; at the end of its input it
saves what the last run returned and answers with its peak memory. `check` and `ready` do what the row says.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import warnings
from pathlib import Path
from time import perf_counter
from typing import Any, TextIO

from benchmarks.measuring import threads_of
from benchmarks.row import Kernel, Row, Setting
from benchmarks.rows import ROWS


def main(what: str, name: str, side: str, setting_json: str, folder: str) -> None:
    """Serve one request of `benchmarks.measuring`."""
    # What libraries print must not reach those who wait for answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    described = json.loads(setting_json)
    setting = Setting(**described | {key: Path(described[key]) for key in ("data", "work")})
    row = next(row for row in ROWS if row.name == name)
    if what == "kernel":
        serve(row, side, setting, Path(folder), answers)
    elif what == "check":
        check(row, setting, Path(folder), answers)
    elif row.ready:
        row.ready(setting)


def serve(row: Row, side: str, setting: Setting, folder: Path, answers: TextIO) -> None:
    """Time a kernel whenever a line comes in."""
    kernel = row.side(side)
    assert isinstance(kernel, Kernel)
    run = kernel.prepare(setting)
    if "torch" in sys.modules:  # not imported for those who do without
        sys.modules["torch"].set_num_threads(threads_of(row))
    before = _present_mib()
    _answer(answers, {"ready": True})
    result: Any = None
    for _ in sys.stdin:
        result = None  # its memory is free for the next one
        begun = perf_counter()
        result = run()
        if setting.device == "cuda":
            _synchronize()
        seconds = perf_counter() - begun
        _answer(answers, {"seconds": result.get("seconds", seconds) if isinstance(result, dict) else seconds})
    peak = _peak_mib()
    _save(result, folder)
    _answer(answers, {"peak_mib": peak, "before_mib": before})


def check(row: Row, setting: Setting, folder: Path, answers: TextIO) -> None:
    """Say what the check says."""
    if row.check is None:
        _answer(answers, {"same": True, "words": ""})
        return
    try:
        words = row.check(setting, folder)
    except AssertionError as error:
        _answer(answers, {"same": False, "words": f"DIFFERENT: {error}".splitlines()[0]})
    else:
        _answer(answers, {"same": True, "words": words})


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _present_mib() -> float:
    """Making inputs may have taken more than they do."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _synchronize() -> None:
    import torch

    torch.cuda.synchronize()


def _save(result: Any, folder: Path) -> None:
    import numpy as np

    if isinstance(result, dict):
        (folder / "output.json").write_text(json.dumps(result))
    elif isinstance(result, np.ndarray):
        np.save(folder / "output.npy", result)


def _answer(answers: TextIO, body: dict[str, Any]) -> None:
    answers.write(json.dumps(body) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])

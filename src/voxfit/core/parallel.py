"""Map a function over cases in worker processes: ordered, with progress, and no death without a name."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import ModuleType
from typing import TypeVar

from voxfit.core.errors import WorkerError
from voxfit.core.lifeline import end_with_parent

Task = TypeVar("Task")
Result = TypeVar("Result")

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


def available_cores() -> int:
    """Cores this process may use (its affinity, not the machine's size)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_cases(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    name: Callable[[Task], str] = str,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Result]:
    """Apply `function` to every task and return the results in the order of the tasks.

    Exceptions of `function` are raised here unchanged. When a worker process dies, the tasks it may have held are
    repeated one at a time in a process of their own, so that one bad case neither ends the others nor stays unnamed.
    The error comes when all others are done.

    Args:
        function: importable by name (it travels to worker processes).
        tasks: picklable values.
        name: what to call a task in errors.
        workers: processes; 1 runs everything here; default: the available cores.
        progress: called with (done, total).

    Raises:
        WorkerError: a task killed its process twice.
    """
    workers = min(workers or available_cores(), len(tasks))
    if workers <= 1:
        results = []
        for index, task in enumerate(tasks):
            results.append(function(task))
            if progress:
                progress(index + 1, len(tasks))
        return results
    done: dict[int, Result] = {}
    waiting, dead = list(range(len(tasks))), []
    while waiting:
        suspects, waiting = _run_pool(function, tasks, waiting, workers, done, progress)
        dead += [index for index in suspects if _run_pool(function, tasks, [index], 1, done, progress)[0]]
    if dead:
        raise WorkerError(
            f"{', '.join(name(tasks[index]) for index in dead)}: the worker process died twice while it held this "
            "case, the second time alone. Most often the system ended it for lack of memory: look at the size of the "
            "case, free memory, or leave the case out."
        )
    return [done[index] for index in range(len(tasks))]


def _run_pool(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    indices: list[int],
    workers: int,
    done: dict[int, Result],
    progress: Callable[[int, int], None] | None,
) -> tuple[list[int], list[int]]:
    """Run the tasks at `indices`, fill `done`; return those a dead worker may have held, and the unstarted."""
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    queue = list(reversed(indices))
    running: dict[Future[Result], int] = {}
    with ProcessPoolExecutor(workers, multiprocessing.get_context(method), _one_thread) as pool:
        try:
            while queue or running:
                while queue and len(running) < 2 * workers:
                    index = queue.pop()
                    with _without_main_module():
                        running[pool.submit(function, tasks[index])] = index
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    done[running[future]] = future.result()
                    del running[future]
                    if progress:
                        progress(len(done), len(tasks))
        except BrokenProcessPool:
            waiting = sorted(queue)
            return [index for index in indices if index not in done and index not in waiting], waiting
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [], []


@contextmanager
def _without_main_module() -> Iterator[None]:
    """Start workers that do not import the user's script again.

    They would run it from the top where it has no `if __name__ == "__main__"`, the fit in it included.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _one_thread() -> None:
    """Workers share the cores: one thread each, or they fight. Ctrl-C is for the parent, which ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    for variable in _THREAD_VARIABLES:
        os.environ[variable] = "1"

"""Map a function over cases in worker processes: in order, with progress; a crashed worker is reported with its case.

Each worker has a pipe of its own and holds one task at a time. So a death costs that task only, it is known which one
it was, and nothing is needed of /dev/shm (a pool with shared queues takes semaphores there).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import monotonic
from types import ModuleType
from typing import Any, Generic, TypeVar

from voxfit.core.errors import WorkerError
from voxfit.core.parent_watchdog import end_with_parent

Task = TypeVar("Task")
Result = TypeVar("Result")

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)

_START_SECONDS = 2.0
"""Workers take about this long before they are of use: a new interpreter each, and its imports."""

_MOST_THREADS = 4
"""More would only wait for each other."""

_LOOK_SECONDS = 0.2
"""How often the memory of workers is looked at."""


def available_cores() -> int:
    """Cores this process may use (its affinity, not the machine's size)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Executor(ABC):
    """Where work on cases runs: another place is another class with `run`, and a line of `choose_executor`."""

    def map(
        self,
        function: Callable[[Task], Result],
        tasks: Sequence[Task],
        *,
        name: Callable[[Task], str] = str,
        light: bool = False,
        progress: Callable[[int, int], None] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> Iterator[Result]:
        """Apply `function` to every task. Results come in the order of the tasks, as soon as they can.

        Exceptions of `function` are raised here unchanged.

        Args:
            function: importable by name (it travels to other processes).
            tasks: picklable values.
            name: what to call a task in errors.
            light: no task needs much memory.
            progress: called with (done, total).
            warn: hears of failures that were made good.

        Raises:
            WorkerError: a task cannot be done, whatever is tried.
        """
        early: dict[int, Result] = {}
        following = 0
        for done, (index, result) in enumerate(self.run(Job(function, tasks, name, light, warn)), 1):
            if progress:
                progress(done, len(tasks))
            early[index] = result
            while following in early:
                yield early.pop(following)
                following += 1

    @abstractmethod
    def run(self, job: Job[Task, Result]) -> Iterator[tuple[int, Result]]:
        """Do all tasks of a job; each result comes with the number of its task, in the order in which they are done."""


def choose_executor(workers: int | None) -> Executor:
    """Where work on cases runs; `workers` is what the user asked for."""
    return LocalExecutor(workers)


@dataclass(frozen=True)
class Job(Generic[Task, Result]):
    """What is to be done; see `Executor.map`."""

    function: Callable[[Task], Result]
    tasks: Sequence[Task]
    name: Callable[[Task], str]
    light: bool
    warn: Callable[[str], None] | None


@dataclass
class _Worker:
    """A process, our end of its pipe, the task it holds, and the most memory it was seen to use, bytes; when seen."""

    process: BaseProcess
    pipe: Connection
    index: int | None = None
    peak: int = 0
    seen: float = 0.0

    def look(self) -> None:
        """Note the memory now and then, where the system tells it (Linux)."""
        if monotonic() - self.seen < _LOOK_SECONDS:
            return
        self.seen = monotonic()
        with contextlib.suppress(OSError, ValueError, IndexError):
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            self.peak = int(status.split("VmHWM:")[1].split(maxsplit=1)[0]) * 1024

    def receive(self) -> tuple[Any] | None:
        """The result of its task; None where it died instead. What the function raised is raised here."""
        try:
            fine, answer, where = self.pipe.recv()
        except (EOFError, OSError):
            return None
        self.index = None
        if not fine:
            raise answer from _InWorkerError(where)
        return (answer,)

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self.pipe.close()
        self.process.kill()
        self.process.join()

    def death(self) -> str:
        """How it died, in words."""
        self.process.join()
        code = self.process.exitcode or 0
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return f"{how}, {self.peak / 2**20:.0f} MiB of memory when last seen" if self.peak else how


@dataclass(frozen=True)
class LocalExecutor(Executor):
    """Processes of this machine.

    When one dies, the task it held is repeated, alone on the machine, when all others are done. So one bad case neither
    ends the others nor stays unnamed. A task that kills its process twice is a `WorkerError`.

    Attributes:
        workers: processes; 1 does everything in this one. None: one for each available core, and light tasks are done
            by threads of this process, until what is left takes longer than starting workers.
    """

    workers: int | None = None

    def run(self, job: Job[Task, Result]) -> Iterator[tuple[int, Result]]:
        """See `Executor`."""
        most = min(self.workers or available_cores(), len(job.tasks))
        if most <= 1:
            for index, task in enumerate(job.tasks):
                yield index, job.function(task)
            return
        queue = list(range(len(job.tasks)))
        if job.light and self.workers is None:
            queue = yield from _run_in_threads(job, queue, most)
        deaths = yield from _run_in_workers(job, queue, most)
        twice = []
        for index, death in sorted(deaths.items()):
            case = job.name(job.tasks[index])
            again = yield from _run_in_workers(job, [index], 1)
            if again:
                twice.append(f"{case} ({again[index]})")
            elif job.warn:
                job.warn(
                    f"{case}: the worker process that held this case died ({death}). Done again alone, it went well. "
                    "If memory is short, use fewer --workers."
                )
        if twice:
            raise WorkerError(
                f"{', '.join(twice)}: the worker process died twice while it held this case, the second time alone. "
                "Most often the system ended it for lack of memory: look at the size of the case, free memory, or "
                "leave the case out."
            )


def _run_in_threads(
    job: Job[Task, Result], queue: list[int], most: int
) -> Generator[tuple[int, Result], None, list[int]]:
    """Run tasks in threads of this process, which are there at once; what reads files lets go of Python's lock.

    Returns:
        the tasks that are left, where workers would be done with them sooner.
    """
    waiting, running = deque(queue), deque[tuple[int, Future[tuple[Result, float]]]]()
    shortest, here = float("inf"), True
    with ThreadPoolExecutor(min(most, _MOST_THREADS), "voxfit-case") as pool:
        while running or (waiting and here):
            while waiting and here and len(running) <= _MOST_THREADS:
                index = waiting.popleft()
                running.append((index, pool.submit(_timed, job, index)))
            index, future = running.popleft()
            result, seconds = future.result()
            yield index, result
            # The first task is slower than others: modules are imported, matrices are made.
            shortest = min(shortest, seconds)
            here = here and shortest * len(waiting) * (1 - 1 / most) <= _START_SECONDS
    return list(waiting)


def _timed(job: Job[Task, Result], index: int) -> tuple[Result, float]:
    begun = monotonic()
    return job.function(job.tasks[index]), monotonic() - begun


def _run_in_workers(
    job: Job[Task, Result], queue: list[int], most: int
) -> Generator[tuple[int, Result], None, dict[int, str]]:
    """Run tasks in up to `most` processes; returns the tasks that a dead process held, and how it died."""
    waiting, workers, deaths = list(reversed(queue)), list[_Worker](), dict[int, str]()
    try:
        while waiting or any(worker.index is not None for worker in workers):
            while len(workers) < min(most, len(waiting) + len(workers)):
                workers.append(_start())
            _hand_out(job, waiting, workers)
            ready = wait([worker.pipe for worker in workers], _LOOK_SECONDS)
            for worker in list(workers):
                worker.look()
                if worker.pipe not in ready:
                    continue
                index, answer = worker.index, worker.receive()
                if answer is None:
                    workers.remove(worker)
                    if index is not None:
                        deaths[index] = worker.death()
                    worker.end()
                elif index is not None:
                    yield index, answer[0]
    finally:
        for worker in workers:
            worker.end()
    return deaths


def _hand_out(job: Job[Task, Result], waiting: list[int], workers: Sequence[_Worker]) -> None:
    for worker in workers:
        if waiting and worker.index is None:
            worker.index = waiting.pop()
            with contextlib.suppress(OSError):  # it is dead: its pipe will say so
                worker.pipe.send((job.function, job.tasks[worker.index]))


class _InWorkerError(Exception):
    """Carries the traceback of a worker, as text."""


def _start() -> _Worker:
    can_fork = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver") if can_fork else multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs,), daemon=True)
    with _without_main_module():
        process.start()
    theirs.close()  # the worker's copy is the only one, so its death closes the pipe
    return _Worker(process, ours)


def _work(pipe: Connection) -> None:
    """A worker's life: answer each (function, task) with (whether it went well, result or error, where it arose)."""
    _one_thread()
    while True:
        try:
            function, task = pipe.recv()
        except EOFError:
            return
        answer: tuple[bool, Any, str]
        try:
            answer = (True, function(task), "")
        except BaseException as error:
            answer = (False, error, traceback.format_exc())
        try:
            pipe.send(answer)
        except OSError:  # the parent is gone
            return
        except Exception as error:
            pipe.send((False, WorkerError(f"{type(answer[1]).__name__} of a worker: {error}"), answer[2]))


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

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from voxfit.core.errors import DatasetError, Problem, WorkerError
from voxfit.core.parallel import Executor, Job, LocalExecutor, available_cores

# What follows runs in worker processes, which import this file by name.


def square(number: int) -> int:
    return number * number


def square_late(number: int) -> int:
    time.sleep(0.02 * (number % 3 == 0))
    return number * number


def reject_three(number: int) -> int:
    if number == 3:
        raise DatasetError([Problem("case 3", "is broken.", "Mend it."), Problem("case 3", "is blue.", "", False)])
    return number


def die_once(task: tuple[Path, int]) -> tuple[int, int]:
    folder, number = task
    marker = folder / f"died_{number}"
    if number == 2 and not marker.exists():
        marker.touch()
        os._exit(1)
    return number, os.getpid()


def write_or_die(task: tuple[Path, int]) -> int:
    folder, number = task
    if number in (0, 5):
        os._exit(1)
    (folder / str(number)).touch()
    return number


def kill_worker_once(task: tuple[Path, int]) -> int:
    folder, number = task
    if number == 1 and not (folder / "killed").exists():
        (folder / "killed").touch()
        held = bytearray(64 * 2**20)
        time.sleep(0.6)
        os.kill(os.getpid(), signal.SIGKILL)
        del held
    return number


def maps_shared_memory(_: int) -> bool:
    with open("/proc/self/maps") as maps:
        return "/dev/shm" in maps.read()


def process_of(number: int) -> int:
    return os.getpid()


def process_after_a_while(number: int) -> int:
    time.sleep(0.15)
    return os.getpid()


def return_a_function(number: int) -> object:
    return lambda: number


def results_of(
    function: Callable[..., Any], tasks: Sequence[Any], workers: int | None = None, **more: Any
) -> list[Any]:
    return list(LocalExecutor(workers).map(function, tasks, **more))


def threads(_: int) -> str | None:
    return os.environ.get("OMP_NUM_THREADS")


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_are_in_the_order_of_the_tasks_and_progress_counts_them(workers: int) -> None:
    seen: list[tuple[int, int]] = []
    results = results_of(
        square_late, range(12), workers=workers, progress=lambda done, total: seen.append((done, total))
    )
    assert results == [number**2 for number in range(12)]
    assert seen == [(done, 12) for done in range(1, 13)]


class Backwards(Executor):
    """Another place for work: it does the last task first."""

    def run(self, job: Job[Any, Any]) -> Iterator[tuple[int, Any]]:
        for index, task in reversed([*enumerate(job.tasks)]):
            yield index, job.function(task)


def test_another_executor_only_does_the_work() -> None:
    seen: list[tuple[int, int]] = []
    found = Backwards().map(square, range(5), progress=lambda done, total: seen.append((done, total)))
    assert list(found) == [0, 1, 4, 9, 16]
    assert seen == [(done, 5) for done in range(1, 6)]


def test_no_tasks_and_more_workers_than_tasks() -> None:
    assert results_of(square, [], workers=4) == []
    assert results_of(square, [3], workers=4) == [9]
    assert results_of(square, [3, 4], workers=64) == [9, 16]
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_exceptions_arrive_unchanged(workers: int) -> None:
    with pytest.raises(DatasetError) as caught:
        results_of(reject_three, range(6), workers=workers)
    assert caught.value.problems == [
        Problem("case 3", "is broken.", "Mend it."),
        Problem("case 3", "is blue.", "", fatal=False),
    ]
    assert str(caught.value) == "case 3: is broken. Mend it.\ncase 3: is blue."


def test_one_worker_is_this_process_and_workers_have_one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # whatever it is here, workers have another
    assert results_of(threads, [0, 1], workers=1) == ["7", "7"]
    assert results_of(threads, [0, 1], workers=2) == ["1", "1"]
    assert os.environ.get("OMP_NUM_THREADS") == "7"
    assert results_of(process_of, [0, 1], workers=1) == [os.getpid()] * 2


def test_a_worker_that_dies_once_costs_a_repetition(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    tasks = [(tmp_path, number) for number in range(40)]
    results = results_of(die_once, tasks, workers=2, progress=lambda done, total: seen.append((done, total)))
    assert (tmp_path / "died_2").exists()
    assert [number for number, _ in results] == list(range(40))
    assert seen == [(done, 40) for done in range(1, 41)]
    # Only the tasks that were under way (four at two workers) are repeated alone; the others keep a shared pool.
    assert len({process for _, process in results}) <= 2 + 4 + 2


def test_a_case_that_kills_its_worker_is_named_and_the_others_are_done(tmp_path: Path) -> None:
    tasks = [(tmp_path, number) for number in range(10)]
    with pytest.raises(WorkerError, match=r"case_0.*case_5.*died twice") as caught:
        results_of(write_or_die, tasks, name=lambda task: f"case_{task[1]}", workers=2)
    assert "memory" in str(caught.value)
    assert "case_1" not in str(caught.value)
    assert {file.name for file in tmp_path.iterdir()} == {"1", "2", "3", "4", "6", "7", "8", "9"}


def test_a_worker_that_the_system_killed_is_reported_with_its_case_and_its_memory(tmp_path: Path) -> None:
    tasks, warnings = [(tmp_path, number) for number in range(4)], list[str]()
    results = results_of(kill_worker_once, tasks, name=lambda task: f"case_{task[1]}", workers=2, warn=warnings.append)
    assert results == [0, 1, 2, 3]
    assert len(warnings) == 1
    assert warnings[0].startswith("case_1: the worker process that held this case died (killed by signal 9")
    if sys.platform == "linux":
        seen = re.search(r"(\d+) MiB of memory", warnings[0])
        assert seen is not None
        assert int(seen[1]) >= 64


def test_a_death_costs_only_the_case_that_the_worker_held(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"^case_0 \(exit code 1.*\), case_5 \(exit code 1"):
        results_of(
            write_or_die, [(tmp_path, number) for number in range(8)], name=lambda task: f"case_{task[1]}", workers=2
        )


def test_light_tasks_are_done_here_and_longer_ones_by_workers() -> None:
    assert set(results_of(process_of, range(40), light=True)) == {os.getpid()}
    if available_cores() > 1:
        # 40 tasks of 0.15 s are longer than workers take to start; the first ones show that.
        found = results_of(process_after_a_while, range(40), light=True)
        assert found[:2] == [os.getpid()] * 2
        assert os.getpid() not in found[10:]
    assert os.getpid() not in results_of(process_of, range(4), light=True, workers=2)


def test_results_that_cannot_travel_are_an_error_here() -> None:
    with pytest.raises(WorkerError, match="function of a worker"):
        results_of(return_a_function, range(2), workers=2)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_need_no_shared_memory() -> None:
    assert results_of(maps_shared_memory, range(2), workers=2) == [False, False]


def test_the_second_thousands_of_tasks_cost_no_more_than_the_first() -> None:
    def cost(count: int) -> float:
        """Seconds of computing in this process, which hands out the tasks; other work on the machine does not count."""
        begun = time.process_time()
        assert results_of(square, range(count), workers=2) == [number**2 for number in range(count)]
        return time.process_time() - begun

    # Of two tasks, it is that of starting the workers. Of a quadratic step the second half would cost three times as
    # much as the first.
    start, half, whole = cost(2), cost(4000), cost(8000)
    assert whole - half < 2 * (half - start)

"""Commands are timed as whole processes, with the memory that the system saw."""

import os
import resource
import subprocess
import sys

import pytest

from benchmarks.machine import OtherWork, busy_seconds
from benchmarks.measuring import BenchmarkError, measure_row
from benchmarks.row import Command, Kernel, Row, Setting


def python(code, **options):
    return Command("it", lambda setting, output: [[sys.executable, "-c", code, str(output)]], **options)


def measure(side, tmp_path, wanted=1, seconds=600.0, **options):
    row = Row("row", "", (side,), **options)
    return measure_row(row, [side], Setting(tmp_path, tmp_path), wanted, lambda words: None, seconds)["it"]


def test_time_and_memory_of_a_process(tmp_path):
    code = "import time; block = bytearray(200 << 20); block[::4096] = b'1' * len(block[::4096]); time.sleep(0.3)"
    found = measure(python(code), tmp_path, warm=False)
    assert 0.3 < found.seconds[0] < 30
    # A process begins with the peak of the one it was forked from: here that of all tests so far.
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert 200 < found.peak_mib < max(300, own + 50)


def test_each_run_begins_in_an_empty_folder_and_the_first_does_not_count(tmp_path):
    """It says how often it has run, and fails where something is left of the last time."""
    code = (
        "import pathlib, sys; folder = pathlib.Path(sys.argv[1]); assert not list(folder.iterdir()); "
        "(folder / 'left').touch(); counter = folder.parent / 'counter'; "
        "number = int(counter.read_text()) + 1 if counter.exists() else 1; counter.write_text(str(number)); "
        "print('hello'); print(number)"
    )
    assert measure(python(code, printed=True), tmp_path, wanted=3).seconds == [2.0, 3.0, 4.0]


def test_long_rows_have_fewer_runs(tmp_path):
    assert len(measure(python("pass"), tmp_path, wanted=5, repeats=2).seconds) == 2


def test_rows_are_not_repeated_when_their_time_is_over(tmp_path):
    assert len(measure(python("pass"), tmp_path, wanted=5, seconds=0.0).seconds) == 1


def test_the_order_of_sides_alternates(tmp_path):
    """Whoever runs second finds a warmer machine, or a slower one."""
    journal = tmp_path / "journal"
    sides = [
        Command(name, lambda setting, output, name=name: [["sh", "-c", f"printf {name} >> {journal}"]])
        for name in ("a", "b", "c")
    ]
    setting = Setting(tmp_path, tmp_path)
    measure_row(Row("row", "", tuple(sides[:1]), tuple(sides[1:])), sides, setting, 4, lambda words: None)
    assert journal.read_text() == "abccbaabccbaabc"


@pytest.mark.parametrize("threads", [1, 2])
def test_all_sides_have_the_same_settings(tmp_path, threads):
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "THP_MEM_ALLOC_ENABLE")
    said = "import os; print(*(os.environ[name] for name in " + repr(names) + "))"
    measure(python(said), tmp_path, threads=threads)
    cores = 1 if threads == 1 else len(os.sched_getaffinity(0))
    found = (Setting(tmp_path, tmp_path).folder("row") / "it.log").read_text().split()
    assert found == [str(cores)] * 3 + ["1"]


def test_own_work_is_not_that_of_others():
    """A process that kept a core busy for a second is ours as soon as it was waited for."""
    others = OtherWork()
    busy = "import time; begun = time.process_time()\nwhile time.process_time() < begun + 1: pass"
    process = subprocess.Popen([sys.executable, "-c", busy])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it ended, but belongs to nobody yet
    before = others.seconds()
    process.wait()
    assert before >= 0.9
    assert others.seconds() < before - 0.7


def test_what_a_machine_counts_as_work():
    """Hundredths of a second: user (guests included), nice, system, interrupts, and what other machines took."""
    stat = "cpu  100 20 30 5000 900 4 6 40 77 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n"
    assert busy_seconds(stat) == 200 / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("may_fail", [True, False])
def test_a_side_that_may_fail_is_left_out(tmp_path, may_fail):
    """The worker knows no row of this name, and ends."""
    there = python("pass")
    broken = Kernel("broken", lambda setting: lambda: None, may_fail=may_fail)
    row, said = Row("no row", "", (there,), (broken,)), []
    if may_fail:
        found = measure_row(row, [there, broken], Setting(tmp_path, tmp_path), 1, said.append)
        assert list(found) == ["it"]
        assert any("left out: no row, broken: the process ended" in words for words in said)
    else:
        with pytest.raises(BenchmarkError, match="the process ended"):
            measure_row(row, [there, broken], Setting(tmp_path, tmp_path), 1, said.append)


def test_a_command_that_fails(tmp_path):
    with pytest.raises(BenchmarkError, match=r"exit code 3. Its output: .*it.log"):
        measure(python("print('why'); raise SystemExit(3)"), tmp_path)
    assert (Setting(tmp_path, tmp_path).folder("row") / "it.log").read_text() == "why\n"

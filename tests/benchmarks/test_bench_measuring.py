"""Commands are timed as whole processes, with the memory that the system saw."""

import resource
import sys

import pytest

from benchmarks.measuring import BenchmarkError, measure_row
from benchmarks.row import Command, Row, Setting


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


def test_a_command_that_fails(tmp_path):
    with pytest.raises(BenchmarkError, match=r"exit code 3. Its output: .*it.log"):
        measure(python("print('why'); raise SystemExit(3)"), tmp_path)
    assert (Setting(tmp_path, tmp_path).folder("row") / "it.log").read_text() == "why\n"

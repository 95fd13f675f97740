"""What users of files and workers are promised, beside what the tests of each module say."""

import os
import subprocess
import sys

import pytest

from voxfit.core.durability import UNFINISHED, remove_partial_files
from voxfit.core.errors import RecordError
from voxfit.core.records import MOST_JSON_BYTES, read_json, write_atomically


def test_only_hidden_files_are_swept_away_at_any_depth(tmp_path):
    """A user may call a file of his own as he likes."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    ours = [tmp_path / f".a{UNFINISHED}.nii.gz", tmp_path / "deep" / "er" / f".b.npy{UNFINISHED}"]
    theirs = [tmp_path / f"a{UNFINISHED}.nii.gz", tmp_path / "deep" / f"report{UNFINISHED}"]
    for path in (*ours, *theirs):
        path.write_text("1")
    remove_partial_files(tmp_path)
    assert not any(path.exists() for path in ours)
    assert all(path.exists() for path in theirs)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_others_may_read_what_is_written(tmp_path):
    write_atomically(tmp_path / "record.json", b"{}")
    assert (tmp_path / "record.json").stat().st_mode & 0o777 == 0o644


def test_json_with_a_byte_order_mark_is_read(tmp_path):
    """As the editors of Windows save it."""
    path = tmp_path / "dataset.json"
    path.write_bytes(b'\xef\xbb\xbf{"name": "K\xc3\xb6rper"}')
    assert read_json(path) == {"name": "K\N{LATIN SMALL LETTER O WITH DIAERESIS}rper"}


def test_json_that_is_too_long_is_not_read(tmp_path):
    path = tmp_path / "dataset.json"
    path.write_text("{}")
    os.truncate(path, MOST_JSON_BYTES + 1)  # a hole: nothing but zeros, which are no JSON either
    with pytest.raises(RecordError, match="more than 64 MiB"):
        read_json(path)


def test_workers_do_not_run_a_users_script_again(tmp_path):
    """It has no `if __name__ == "__main__"`."""
    script = tmp_path / "mine.py"
    script.write_text(
        "from voxfit.core.parallel import LocalExecutor\n"
        "print('begun', flush=True)\n"
        "print(list(LocalExecutor(2).map(abs, [-1, -2, -3])))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.splitlines() == ["begun", "[1, 2, 3]"], done.stderr

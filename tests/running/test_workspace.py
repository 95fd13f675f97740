"""Locks, building aside, setting aside."""

import json
import os
import socket
import subprocess
import sys

import pytest

from voxfit.core.errors import WorkspaceError
from voxfit.running.workspace import Workspace


def test_one_writer_at_a_time(tmp_path):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from voxfit.running.workspace import Workspace\n"
            f"with Workspace(Path({str(tmp_path)!r})).lock(): print('held', flush=True); sys.stdin.read()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(WorkspaceError, match=f"process {holder.pid} on {socket.gethostname()}"):
            Workspace(tmp_path).lock().__enter__()
    finally:
        holder.kill()
        holder.communicate()
    # Killed: it could not clean up, and nobody has to.
    assert (tmp_path / "lock.json").exists()
    with Workspace(tmp_path).lock():
        assert json.loads((tmp_path / "lock.json").read_text())["process"] == os.getpid()
    assert not (tmp_path / "lock.json").exists()


def test_a_lock_of_another_host_is_respected(tmp_path):
    (tmp_path / "lock.json").write_text(json.dumps({"host": "elsewhere", "process": 1, "since": "noon"}))
    with pytest.raises(WorkspaceError, match="process 1 on elsewhere has been writing here since noon"):
        Workspace(tmp_path).lock().__enter__()


@pytest.mark.parametrize("content", ["", "{", '{"host": 3}'])
def test_a_lock_cut_short_by_a_crash_is_taken_over(tmp_path, content):
    (tmp_path / "lock.json").write_text(content)
    with Workspace(tmp_path).lock():
        pass


def interrupt(workspace, folder):
    """Begin to build a folder, and fail."""
    building = workspace.building(folder, "one")
    part = building.__enter__()
    (part / "half").write_text("x")
    assert not building.__exit__(RuntimeError, RuntimeError("power"), None)


def test_a_folder_appears_only_when_it_is_whole(tmp_path):
    workspace = Workspace(tmp_path)
    folder = tmp_path / "thing"
    interrupt(workspace, folder)
    assert not folder.exists()
    with workspace.building(folder, "one") as part:
        assert (part / "half").read_text() == "x"  # goes on where it was
    assert (folder / "half").exists()


def test_what_was_begun_for_something_else_is_not_continued(tmp_path):
    workspace = Workspace(tmp_path)
    interrupt(workspace, tmp_path / "thing")
    with workspace.building(tmp_path / "thing", "two") as part:
        assert list(part.iterdir()) == []


def test_a_replaced_artefact_is_kept(tmp_path):
    workspace = Workspace(tmp_path)
    for number in range(3):
        with workspace.building(tmp_path / "thing", str(number)) as part:
            (part / "content").write_text(str(number))
    assert (tmp_path / "thing" / "content").read_text() == "2"
    kept = sorted(path.read_text() for path in (tmp_path / "superseded").rglob("content"))
    assert kept == ["0", "1"]


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError, match="file/run: cannot be written"):
        Workspace(tmp_path / "file" / "run")

"""Locks; artefacts that are found, made aside, set aside and found again."""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from voxfit.core.durability import UNFINISHED
from voxfit.core.errors import RecordError, UsageError, WorkspaceError
from voxfit.core.progress import Listener
from voxfit.core.records import Made
from voxfit.running import locking
from voxfit.running.collection import fit_all
from voxfit.running.locking import Holder, locked, read_holder
from voxfit.running.request import FitRequest
from voxfit.running.run_folder import Artefact, RunFolder

HOLD = (
    "import errno, fcntl, sys; from pathlib import Path; from voxfit.running import locking\n"
    "def cannot(*_): raise OSError(errno.ENOLCK, 'No locks available')\n"
    "if sys.argv[2:]: fcntl.flock = cannot\n"
    "with locking.locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
)


def cannot_lock(*_):
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.fixture(params=["flock", "no flock"])
def disk(request, monkeypatch):
    """A disk that can lock files, and one that cannot; the extra arguments of HOLD."""
    if request.param == "flock":
        return []

    monkeypatch.setattr(fcntl, "flock", cannot_lock)
    return ["cannot"]


def hold(folder, disk):
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), *disk],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def leave(folder, **changes):
    """A lock file, as a process that was killed leaves it."""
    holder = Holder.this_process().model_copy(update=changes)
    (folder / "lock.json").write_text(holder.to_json())
    return holder


def test_one_writer_at_a_time(tmp_path, disk):
    holder = hold(tmp_path, disk)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(WorkspaceError, match=f"process {holder.pid} on {socket.gethostname()} .* since 20"):
            RunFolder(tmp_path).lock().__enter__()
    finally:
        holder.kill()
        holder.communicate()
    # Killed: it could not clean up, and nobody has to.
    assert (tmp_path / "lock.json").exists()
    with RunFolder(tmp_path).lock():
        assert json.loads((tmp_path / "lock.json").read_text())["process"] == os.getpid()
    assert not (tmp_path / "lock.json").exists()


@pytest.mark.parametrize("stale", [False, True])
def test_of_several_that_begin_at_once_exactly_one_goes_on(tmp_path, disk, stale):
    if stale:
        leave(tmp_path, process=2**22 + 1)
    rivals = [hold(tmp_path, disk) for _ in range(6)]
    lines = [rival.stdout.readline() for rival in rivals]  # of those that are refused: nothing, as they end
    assert sorted(lines) == [""] * 5 + ["held\n"]
    winner = rivals[lines.index("held\n")]
    for rival in rivals:
        text = rival.communicate()[1]
        assert rival is winner or f"process {winner.pid} on" in text


@pytest.mark.parametrize("first", [[], ["cannot"]], ids=["flock first", "flock second"])
def test_whether_files_can_be_locked_is_the_same_to_both(tmp_path, first, monkeypatch):
    """A disk may answer one process, and not the next."""
    if not first:
        monkeypatch.setattr(fcntl, "flock", cannot_lock)
    holder = hold(tmp_path, first)
    assert holder.stdout.readline() == "held\n"
    files = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(WorkspaceError, match=f"process {holder.pid} on"):
        locked(tmp_path).__enter__()
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    holder.communicate()
    assert not list(tmp_path.iterdir())


def test_threads_of_one_process_exclude_each_other(tmp_path, disk):
    with locked(tmp_path), pytest.raises(WorkspaceError, match=f"process {os.getpid()} on"):
        locked(tmp_path).__enter__()


def test_who_comes_while_another_leaves_gets_the_lock_or_is_refused(tmp_path, disk):
    """Many turns: never two at once, and no file is there at the end."""
    inside, most, turns = [0], [0], [0]

    def work():
        for _ in range(20):
            with suppress(WorkspaceError), locked(tmp_path):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.001)
                inside[0] -= 1
                turns[0] += 1

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert turns[0] >= 20
    assert not list(tmp_path.iterdir())


def test_a_lock_on_a_file_that_is_gone_keeps_nobody_out(tmp_path, monkeypatch):
    """Whoever leaves removes the file; who had opened it before, and locks it now, must lock the next one."""
    flock, left = fcntl.flock, []

    def late(handle, how):
        flock(handle, how)
        if not left:
            left.append((tmp_path / ".lock").unlink())

    monkeypatch.setattr(fcntl, "flock", late)
    with locked(tmp_path):
        rival = hold(tmp_path, [])
        said = rival.communicate()
    assert left
    assert said[0] == ""
    assert f"process {os.getpid()} on" in said[1]


def test_nothing_of_a_lock_stays_after_a_failure(tmp_path, disk):
    with suppress(ValueError), locked(tmp_path):
        raise ValueError
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux says when a process began")
def test_a_number_that_another_program_has_now_holds_nothing(tmp_path, disk):
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        started = locking._started(other.pid)
        assert started > 0
        leave(tmp_path, process=other.pid, started=started - 1)
        with locked(tmp_path):
            pass
        # The same process still holds what it took, however it locked that.
        leave(tmp_path, process=other.pid, started=started)
        with pytest.raises(WorkspaceError, match=f"process {other.pid} on"):
            locked(tmp_path).__enter__()
    finally:
        other.communicate(b"\n")


def test_a_lock_from_before_the_machine_started_again_is_taken_over(tmp_path, disk):
    leave(tmp_path, process=1, boot="before")
    with locked(tmp_path):
        pass


def test_a_collection_is_locked_as_a_whole(tmp_path):
    request = FitRequest(tmp_path, tmp_path / "runs")
    with RunFolder(tmp_path / "runs").lock(), pytest.raises(WorkspaceError, match="has been writing here since"):
        fit_all([], request, Listener())
    assert fit_all([], replace(request, run=tmp_path / "runs"), Listener()).results == {}


def test_half_written_files_of_killed_processes_are_removed(tmp_path):
    (tmp_path / "3d" / "fold_0").mkdir(parents=True)
    half = tmp_path / "3d" / "fold_0" / f".weights.safetensors.x{UNFINISHED}"
    half.write_text("half")
    (tmp_path / ".keep").write_text("the user's")
    with RunFolder(tmp_path).lock():
        assert not half.exists()
    assert (tmp_path / ".keep").exists()


def test_a_lock_of_another_host_is_respected(tmp_path, disk):
    (tmp_path / "lock.json").write_text(json.dumps({"host": "elsewhere", "process": 1, "since": "noon"}))
    with pytest.raises(WorkspaceError, match=r"process 1 on elsewhere has been writing here since noon.* delete"):
        RunFolder(tmp_path).lock().__enter__()
    assert read_holder(tmp_path).host == "elsewhere"
    assert [path.name for path in tmp_path.iterdir()] == ["lock.json"]


@pytest.mark.parametrize("content", ["", "{", '{"host": 3}'])
def test_a_lock_cut_short_by_a_crash_is_taken_over(tmp_path, disk, content):
    (tmp_path / "lock.json").write_text(content)
    with RunFolder(tmp_path).lock():
        pass


class Thing(Made):
    schema_name = "test.thing/1"
    number: int = 0


def thing(folder, inputs, **changes):
    return Artefact(folder / "thing", inputs, Thing, "manifest.json", **changes)


def write(text):
    """Fills a folder."""

    def fill(part):
        (part / "content").write_text(text)
        return Thing()

    return fill


def interrupt(run, artefact):
    """Begin to build a folder, and fail."""

    def fill(part):
        (part / "half").write_text("x")
        raise RuntimeError("power")

    with pytest.raises(RuntimeError):
        run.obtain(artefact, fill)


def refuse(part):
    raise AssertionError("it is there")


def test_a_folder_appears_only_when_it_is_whole(tmp_path):
    run, one = RunFolder(tmp_path), thing(tmp_path, "one")
    interrupt(run, one)
    assert not one.path.exists()

    def go_on(part):
        assert (part / "half").read_text() == "x"
        return Thing(number=3)

    assert run.obtain(one, go_on) == Thing(inputs_digest="one", number=3)
    assert (one.path / "half").exists()
    assert run.obtain(one, refuse).number == 3


def test_what_was_begun_for_something_else_is_not_continued(tmp_path):
    run = RunFolder(tmp_path)
    interrupt(run, thing(tmp_path, "one"))

    def fill(part):
        assert list(part.iterdir()) == []
        return Thing()

    run.obtain(thing(tmp_path, "two"), fill)
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_an_unfinished_training_waits_for_its_settings(tmp_path):
    """What takes long is not begun again because something else was asked for in between."""
    run, one = RunFolder(tmp_path), thing(tmp_path, "one", costly="3d fold 0")
    interrupt(run, one)
    interrupt(run, replace(one, inputs="two"))
    assert (one.part / "half").exists()
    assert run.obtain(one, write("done")).inputs_digest == "one"
    assert (one.path / "half").exists()


def test_a_replaced_artefact_is_kept_and_found_again(tmp_path):
    ear, run = Said(), RunFolder(tmp_path)
    run.listener = ear
    for number in range(3):
        run.obtain(thing(tmp_path, str(number)), write(str(number)))
    assert (tmp_path / "thing" / "content").read_text() == "2"
    kept = sorted(path.read_text() for path in (tmp_path / "superseded").rglob("content"))
    assert kept == ["0", "1"]
    assert ear.told == []
    assert run.obtain(thing(tmp_path, "0"), refuse).inputs_digest == "0"
    assert (tmp_path / "thing" / "content").read_text() == "0"
    assert ear.told == ["thing is found again: it was set aside, and fits what is asked for now."]
    kept = sorted(path.read_text() for path in (tmp_path / "superseded").rglob("content"))
    assert kept == ["1", "2"]


def test_records_are_obtained_like_folders(tmp_path):
    run = RunFolder(tmp_path)
    one, two = (Artefact(tmp_path / "thing.json", name, Thing) for name in ("one", "two"))
    assert run.obtain(one, lambda _: Thing(number=1)).number == 1
    assert run.obtain(two, lambda _: Thing(number=2)).number == 2
    assert run.obtain(one, refuse).number == 1
    one.path.write_text("{")
    with pytest.raises(RecordError, match=r"thing\.json"):
        run.obtain(one, refuse)


class Said(Listener):
    def __init__(self, answer=False):
        self.told, self.asked, self.answer = [], [], answer

    def say(self, text):
        self.told.append(text)

    def confirm(self, question):
        self.asked.append(question)
        return self.answer


@pytest.mark.parametrize("way", ["refused", "confirmed", "--restart"])
def test_a_finished_training_is_never_set_aside_unasked(tmp_path, way):
    costly = {"costly": "3d fold 0"}
    RunFolder(tmp_path).obtain(thing(tmp_path, "one", **costly), write("one"))
    ear = Said(way == "confirmed")
    run = RunFolder(tmp_path, ear, restart=way == "--restart")
    if way == "refused":
        with pytest.raises(UsageError, match=r"3d fold 0 is trained with other settings.*--restart"):
            run.obtain(thing(tmp_path, "two", **costly), refuse)
        assert (tmp_path / "thing" / "content").read_text() == "one"
        assert not (tmp_path / "superseded").exists()
    else:
        run.obtain(thing(tmp_path, "two", **costly), write("two"))
        assert (tmp_path / "thing" / "content").read_text() == "two"
    assert len(ear.asked) == (way != "--restart")


@pytest.mark.parametrize("costly", ["", "3d fold 0"])
def test_a_damaged_folder_is_made_again_unless_it_is_a_training(tmp_path, costly):
    run, one = RunFolder(tmp_path), thing(tmp_path, "one", costly=costly)
    run.obtain(one, write("first"))
    one.place().write_text("{")
    if costly:
        with pytest.raises(RecordError, match=r"manifest\.json"):
            run.obtain(one, refuse)
    else:
        run.obtain(one, write("second"))
    assert (one.path / "content").read_text() == ("first" if costly else "second")


def test_what_must_be_in_a_folder_is_looked_for(tmp_path):
    run = RunFolder(tmp_path)
    run.obtain(thing(tmp_path, "one"), write("x"))
    assert thing(tmp_path, "one", needs=("content",)).fits()
    assert not thing(tmp_path, "one", needs=("content", "more")).fits()


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError, match="file/run: cannot be written"):
        RunFolder(tmp_path / "file" / "run")


def test_nothing_of_a_lock_stays_after_an_orderly_end(tmp_path, disk):
    with suppress(RuntimeError), locked(tmp_path):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_built_folder_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """After a power cut a name must not stand for files that were never written."""
    synced, real, folder = set(), os.fsync, tmp_path / "thing"

    def fsync(handle):
        synced.add((os.fstat(handle).st_ino, folder.exists()))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)

    def fill(part):
        (part / "deep").mkdir()
        for name in ("one", "deep/two"):
            (part / name).write_text(name)
        return Thing()

    RunFolder(tmp_path).obtain(thing(tmp_path, "one"), fill)
    for path in (folder, folder / "one", folder / "deep", folder / "deep/two"):
        assert (path.stat().st_ino, False) in synced, path
    assert (tmp_path.stat().st_ino, True) in synced  # and the name afterwards

"""Files in one step: whole or not there, whatever happens."""

import errno
import os

import numpy as np
import pytest

from voxfit.core.durability import UNFINISHED, remove_partial_files, replace_durably, save_array, sync_tree
from voxfit.core.records import write_atomically


def test_an_array_is_what_numpy_reads(tmp_path):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    save_array(tmp_path / "a.npy", array)
    assert np.array_equal(np.load(tmp_path / "a.npy"), array)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_the_content_is_on_the_disk_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    """The order that a power cut needs: fsync of the file, rename, fsync of the folder."""
    order = []
    fsync, replace = os.fsync, os.replace

    def noting_fsync(handle):
        order.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        fsync(handle)

    def noting_replace(old, new):
        order.append("rename")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "replace", noting_replace)
    (tmp_path / "new").write_text("1")
    replace_durably(tmp_path / "new", tmp_path / "b")
    write_atomically(tmp_path / "c", b"2")
    save_array(tmp_path / "d.npy", np.zeros(3))
    assert order == ["file", "rename", "folder"] * 3


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    save_array(tmp_path / "a.npy", np.zeros(3))

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            save_array(tmp_path / "a.npy", np.ones(3))
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.zeros(3))
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_everything_in_a_folder_is_synced(tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    for name in ("one", "inner/two"):
        (tmp_path / name).write_text(name)
    seen, fsync = set(), os.fsync

    def noting(handle):
        seen.add(os.path.relpath(os.readlink(f"/proc/self/fd/{handle}"), tmp_path))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noting)
    sync_tree(tmp_path)
    assert seen == {".", "inner", "one", "inner/two"}


def test_what_killed_processes_left_is_swept_away(tmp_path):
    (tmp_path / "in").mkdir()
    for name in (f".a.npy{UNFINISHED}", f"in/.b.nii.gz{UNFINISHED}7", "in/c.npy"):
        (tmp_path / name).touch()
    remove_partial_files(tmp_path)
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["c.npy"]
    assert [path.name for path in tmp_path.iterdir()] == ["in"]

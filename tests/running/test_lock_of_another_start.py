"""Numbers of processes, and times since the start of a machine, mean nothing after the next start."""

import os

from voxfit.running.locking import LOCK, Holder, locked, read_holder


def test_a_process_of_another_start_of_this_machine_has_ended_whatever_its_number(tmp_path):
    mine = Holder.this_process()
    assert mine.may_live()
    before = mine.model_copy(update={"boot": "another start"})
    assert not before.may_live()  # though a process with its number, begun at the same time, is there: this one
    before.save(tmp_path / LOCK)
    with locked(tmp_path):
        assert read_holder(tmp_path).boot == mine.boot
        assert read_holder(tmp_path).process == os.getpid()

"""Signals, sent to this very process."""

import os
import signal

import pytest

from voxfit.core.interruption import Interrupted, deferred, interrupt


@pytest.fixture(autouse=True)
def handled():
    before = signal.signal(signal.SIGTERM, interrupt)
    yield
    signal.signal(signal.SIGTERM, before)


def send():
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_ends_the_work_at_once():
    with pytest.raises(Interrupted) as caught:
        send()
    assert caught.value.args == (signal.SIGTERM,)


def test_a_deferred_one_waits_for_the_end_of_the_block():
    done = []

    def work():
        with deferred() as interruption:
            assert not interruption
            send()
            assert interruption
            done.append("the block")
        done.append("what follows")

    with pytest.raises(Interrupted) as caught:
        work()
    assert caught.value.args == (signal.SIGTERM,)
    assert done == ["the block"]


def test_the_second_one_never_waits():
    def work():
        with deferred():
            send()
            send()
            pytest.fail("it waited")

    with pytest.raises(Interrupted):
        work()


def test_an_error_in_the_block_is_what_is_raised():
    def work():
        with deferred():
            send()
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        work()
    with pytest.raises(Interrupted):  # and the block is closed
        send()

"""SIGTERM and SIGINT stop at once, or where a loop chooses."""

import os
import signal

import pytest

from dance_tf.errors import Interrupted
from dance_tf.run.surroundings import StopSignals


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_at_once(signum):
    before = signal.getsignal(signum)
    with pytest.raises(Interrupted) as caught, StopSignals():
        os.kill(os.getpid(), signum)
        pytest.fail("not stopped")
    assert caught.value.signum == signum
    assert signal.getsignal(signum) is before


def test_inside_deferred_it_waits_and_a_second_one_does_not():
    reached = []
    with pytest.raises(Interrupted), StopSignals() as stop, stop.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested == signal.SIGTERM
        reached.append(1)
        with pytest.raises(Interrupted):
            stop.check()
        os.kill(os.getpid(), signal.SIGTERM)
        reached.append(2)
    assert reached == [1]


def test_leaving_deferred_stops():
    with pytest.raises(Interrupted), StopSignals() as stop:
        with stop.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("not stopped")


def test_an_error_that_a_library_made_of_it_is_still_an_interruption():
    with pytest.raises(Interrupted), StopSignals():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Interrupted as error:
            raise RuntimeError("wrapped") from error

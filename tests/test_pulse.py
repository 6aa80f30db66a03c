"""A worker's signs of life. What its parent makes of them is tested with the parent (test_server)."""

import os
import threading

import pytest

from service.pulse import Pulse

PATIENCE_SECONDS = 30.0


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_step_within_its_time_and_none_at_all_are_well() -> None:
    time = Time()
    pulse = Pulse(10.0, time)
    with pulse.step():
        time.now = 10.0
        assert not pulse.is_stuck()
    time.now = 1000.0
    assert not pulse.is_stuck()


def test_a_step_over_its_time_is_stuck_until_it_ends() -> None:
    time = Time()
    pulse = Pulse(10.0, time)
    with pulse.step():
        time.now = 10.1
        assert pulse.is_stuck()
    assert not pulse.is_stuck()


def test_when_the_parent_has_closed_the_pipe_the_beating_ends_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[object] = []
    monkeypatch.setattr(threading, "excepthook", said.append)
    heard, beats = os.pipe()
    Pulse(10.0).start(beats)
    assert os.read(heard, 1) == b"."
    (beating,) = (thread for thread in threading.enumerate() if thread.name == "pulse")
    os.close(heard)
    beating.join(PATIENCE_SECONDS)
    os.close(beats)
    assert not beating.is_alive()
    assert said == []

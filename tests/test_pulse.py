"""A worker's signs of life. What its parent makes of them is tested with the parent (test_server)."""

from service.pulse import Pulse


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

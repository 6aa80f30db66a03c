"""Room on the device: who may begin, who is dropped, and how soon there is room again. Time stands still until told."""

from contextlib import ExitStack

import pytest
from fake_front import FakeTime

from service.errors import FrameShed, Overloaded
from service.front.tracking.admission import RETRY_SECONDS, Admission

ROOM = 4


@pytest.fixture
def clock() -> FakeTime:
    return FakeTime()


@pytest.fixture
def admission(clock: FakeTime) -> Admission:
    return Admission(ROOM, clock)


def test_targets_that_begin_at_once_fill_the_room_though_none_is_under_way(admission: Admission) -> None:
    for _ in range(ROOM):
        admission.begin(1, "me")
    with pytest.raises(Overloaded, match="4.0 targets are on their way through the device, which has room for 4") as refused:
        admission.begin(1, "me")
    assert refused.value.retry_seconds == RETRY_SECONDS


def test_targets_that_turn_out_to_be_idle_make_room(admission: Admission, clock: FakeTime) -> None:
    admission.begin(ROOM, "me")
    clock.now += 0.5
    admission.begin(ROOM, "me")


def test_a_frame_may_begin_more_targets_than_there_is_room_for(admission: Admission) -> None:
    admission.begin(10 * ROOM, "me")
    with pytest.raises(Overloaded):
        admission.check_room("me")


def test_a_client_that_begins_targets_without_end_leaves_half_of_the_room_to_others(admission: Admission) -> None:
    admission.begin(10 * ROOM, "greedy")
    with pytest.raises(Overloaded):
        admission.begin(1, "greedy")
    for _ in range(ROOM // 2):
        admission.begin(1, "me")
    for client in ("greedy", "me", "third"):
        with pytest.raises(Overloaded):
            admission.check_room(client)


def test_nobody_begins_while_as_many_are_under_way_as_there_is_room_for(admission: Admission, clock: FakeTime) -> None:
    with ExitStack() as stack:
        for _ in range(ROOM + 1):
            stack.enter_context(admission.passage())
        admission.check_room("me")  # a short crowd is none
        clock.now += 2.0
        with pytest.raises(Overloaded):
            admission.check_room("me")


def test_a_load_that_falls_makes_room_within_a_second(admission: Admission, clock: FakeTime) -> None:
    with ExitStack() as stack:
        for _ in range(10 * ROOM):
            stack.enter_context(admission.passage())
        clock.now += 10.0
    clock.now += 1.0
    admission.check_room("me")


def test_the_load_is_the_share_of_the_time_that_targets_are_under_way(admission: Admission, clock: FakeTime) -> None:
    for _ in range(200):  # a quarter of each 40 ms
        with admission.passage():
            clock.now += 0.01
        clock.now += 0.03
    assert admission.load("me") == pytest.approx(0.25, abs=0.02)


def test_frames_are_shed_from_two_passes_worth_on(admission: Admission) -> None:
    with ExitStack() as stack:
        for _ in range(2 * ROOM):
            admission.shed()
            stack.enter_context(admission.passage())
        with pytest.raises(FrameShed, match="8 targets wait for the device already"):
            admission.shed()
    admission.shed()

"""A device that is full, as frames meet it: who is refused, who is dropped, and who goes on."""

import asyncio

from fake_front import bench, start, until

from mixformer.tracking.v1 import tracking_pb2 as pb
from model.geometry import Box
from service.front.frames import Action, Command

ELSEWHERE = Box(200.0, 120.0, 40.0, 40.0)
LIVE = pb.SessionOptions(overload_policy=pb.OVERLOAD_POLICY_DROP_OLDEST)


async def test_a_target_that_begins_without_room_is_refused_with_a_time_to_retry_and_begins_then() -> None:
    given = bench(room=1)
    tracked, late = given.session("tracked"), given.session("late")
    await given.track(tracked, 1, start())
    refused = await given.track(late, 1, start())
    assert (refused.outcome, refused.error.reason) == (pb.FRAME_OUTCOME_REJECTED, "OVERLOADED")
    assert "which has room for 1" in refused.error.message
    assert (await given.track(late, 2)).error.reason == "NO_TARGET"
    given.time.now += refused.error.retry_delay.seconds
    assert (await given.track(late, 3, start())).outcome == pb.FRAME_OUTCOME_PROCESSED


async def test_targets_that_are_tracked_go_on_without_room_and_may_start_again() -> None:
    given = bench(room=1)
    session = given.session()
    await given.track(session, 1, start())
    for number, commands in enumerate(((), (start(),), (Command("", Action.RELOCATE, ELSEWHERE),)), 2):
        assert (await given.track(session, number, *commands)).outcome == pb.FRAME_OUTCOME_PROCESSED


async def test_another_target_of_a_session_needs_room_too() -> None:
    given = bench(room=1)
    session = given.session()
    await given.track(session, 1, start("a"))
    refused = await given.track(session, 2, start("b", ELSEWHERE))
    assert refused.error.reason == "OVERLOADED"
    assert list(session.targets) == ["a"]


async def test_a_client_that_begins_and_removes_targets_without_end_keeps_no_other_out() -> None:
    given = bench(room=2)
    greedy, late = given.session("greedy", client="greedy"), given.session("late")
    names = [str(number) for number in range(4)]
    for number in range(1, 90, 2):  # 40 frames a second
        await given.track(greedy, number, *(start(name) for name in names))
        given.time.now += 0.025
        await given.track(greedy, number + 1, *(Command(name, Action.REMOVE) for name in names))
        given.time.now += 0.025
    assert (await given.track(late, 1, start())).outcome == pb.FRAME_OUTCOME_PROCESSED
    assert (await given.track(greedy, 91, *map(start, names))).error.reason == "OVERLOADED"


async def test_a_refused_picture_is_not_decoded() -> None:
    given = bench(room=1)
    await given.track(given.session("tracked"), 1, start())
    refused = await given.track(given.session("late"), 1, start(), payload=b"no picture")
    assert refused.error.reason == "OVERLOADED"


async def test_behind_two_passes_live_frames_are_dropped_and_those_of_who_waits_are_not() -> None:
    given = bench(room=1)
    sessions = [given.session(str(number)) for number in range(2)]
    live, patient = given.session("live", LIVE), given.session("patient")
    for session in (*sessions, live, patient):
        await given.track(session, 1, start())
        given.time.now += 1.0
    given.engine.gate.clear()
    waiting = [asyncio.create_task(given.track(session, 2)) for session in sessions]
    await until(lambda: given.engine.waiting == 2)
    dropped = await given.track(live, 2)
    assert (dropped.outcome, dropped.error.reason) == (pb.FRAME_OUTCOME_DROPPED, "OVERLOADED")
    waiting.append(asyncio.create_task(given.track(patient, 2)))
    await until(lambda: given.engine.waiting == 3)
    given.engine.gate.set()
    assert [result.outcome for result in await asyncio.gather(*waiting)] == [pb.FRAME_OUTCOME_PROCESSED] * 3
    assert (await given.track(live, 3)).outcome == pb.FRAME_OUTCOME_PROCESSED

"""What a step leaves behind at the device: memories are released once, and only when they are done with."""

from fake_front import ELSEWHERE, REJECTED, bench, start

from mixformer.tracking.v1 import tracking_pb2 as pb
from model.geometry import Box
from service.errors import SessionNotFound
from service.front.frames import Action, Command


async def test_memories_are_released_when_renewed_removed_or_at_the_end_and_only_then() -> None:
    given = bench()
    session = given.session(options=pb.SessionOptions(update_interval_frames=2))
    await given.track(session, 1, start("a"), start("b", ELSEWHERE))
    await given.track(session, 2)
    first = {name: target.memory_key for name, target in session.targets.items()}
    assert given.engine.released == []
    await given.track(session, 3)
    assert sorted(given.engine.released) == sorted(first.values())
    await given.track(session, 4, Command("a", Action.REMOVE))
    await given.front.table.end(session, SessionNotFound("deleted"))
    assert sorted(given.engine.released) == sorted(set(given.engine.used))


async def test_a_memory_that_was_never_used_is_not_released() -> None:
    given = bench()
    session = given.session()
    await given.track(session, 1, start("a"))
    await given.front.table.end(session, SessionNotFound("deleted"))
    assert given.engine.released == []


async def test_a_target_that_was_not_asked_for_is_not_released() -> None:
    given = bench()
    session = given.session()
    await given.track(session, 1, start("a"))
    await given.track(session, 2)
    nowhere = Command("a", Action.RELOCATE, Box(0.0, 0.0, 1e7, 1e7))
    assert (await given.track(session, 3, nowhere)).outcome == REJECTED
    assert given.engine.released == []

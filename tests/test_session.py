"""Who has a session's turn, who takes it over, and when it ends."""

import asyncio

import pytest
from fake_front import Bench, bench, start, until
from google.protobuf.duration_pb2 import Duration

from mixformer.tracking.v1 import tracking_pb2 as pb
from service.errors import Overloaded, SessionBusy, SessionNotFound, SessionTakenOver
from service.front.tracking.holder import Holder
from service.front.tracking.session import MAX_QUEUED_CALLS, Session


class Stream:
    """A stream that holds a session until it is told to leave or loses it."""

    def __init__(self, session: Session) -> None:
        self.has_it = False
        self.leave = asyncio.Event()
        self.task = asyncio.create_task(self._hold(session))

    async def _hold(self, session: Session) -> None:
        with Holder() as holder:
            async with session.hold(holder):
                self.has_it = True
                try:
                    await self.leave.wait()
                finally:
                    await asyncio.sleep(0)  # leaving takes time
                    self.has_it = False


async def with_a_frame_under_way(given: Bench) -> tuple[Session, asyncio.Task[pb.FrameResult]]:
    """A session whose second frame is at the device, and that frame."""
    session = given.session()
    await given.track(session, 1, start())
    given.engine.gate.clear()
    step = asyncio.create_task(given.track(session, 2))
    await until(lambda: given.engine.waiting == 1)
    return session, step


async def test_a_second_stream_takes_the_session_over_once_the_first_has_left() -> None:
    session = bench().session()
    first = Stream(session)
    await until(lambda: first.has_it)
    second = Stream(session)
    await until(lambda: second.has_it or first.has_it and second.has_it)
    assert not first.has_it
    with pytest.raises(SessionTakenOver, match="session s"):
        await first.task
    assert session.epoch == 2
    second.leave.set()
    await second.task


async def test_of_several_that_take_over_at_once_the_last_has_it() -> None:
    session = bench().session()
    streams = [Stream(session) for _ in range(4)]
    await until(lambda: streams[-1].has_it)
    streams[-1].leave.set()
    outcomes = await asyncio.gather(*(stream.task for stream in streams), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [SessionTakenOver] * 3 + [type(None)]


async def test_a_client_that_leaves_is_cancelled_not_taken_over() -> None:
    session = bench().session()
    stream = Stream(session)
    await until(lambda: stream.has_it)
    stream.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stream.task
    next_one = Stream(session)
    await until(lambda: next_one.has_it)
    next_one.leave.set()
    await next_one.task


async def test_a_client_that_leaves_while_it_is_taken_over_is_cancelled() -> None:
    session = bench().session()
    first = Stream(session)
    await until(lambda: first.has_it)
    first.task.cancel()
    second = Stream(session)
    await until(lambda: second.has_it)
    assert first.task.cancelled()
    second.leave.set()
    await second.task


async def test_single_frames_wait_for_their_turn_in_order() -> None:
    session = bench().session()
    done: list[int] = []

    async def call(number: int) -> None:
        async with session.turn():
            await asyncio.sleep(0)
            done.append(number)

    await asyncio.gather(*(call(number) for number in range(5)))
    assert done == [0, 1, 2, 3, 4]


async def test_single_frames_over_the_queue_are_refused() -> None:
    session = bench().session()
    inside = asyncio.Event()

    async def call() -> None:
        async with session.turn():
            await inside.wait()

    calls = [asyncio.create_task(call()) for _ in range(MAX_QUEUED_CALLS)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match=f"{MAX_QUEUED_CALLS} calls"):
        await call()
    inside.set()
    await asyncio.gather(*calls)


async def test_a_stream_that_holds_the_session_makes_it_busy_for_single_frames() -> None:
    session = bench().session()
    stream = Stream(session)
    await until(lambda: stream.has_it)
    with pytest.raises(SessionBusy):
        async with session.turn():
            pass
    stream.leave.set()
    await stream.task
    async with session.turn():
        pass


async def test_single_frames_that_wait_are_busy_when_a_stream_comes() -> None:
    session = bench().session()
    inside = asyncio.Event()

    async def call() -> None:
        async with session.turn():
            await inside.wait()

    first, second = asyncio.create_task(call()), asyncio.create_task(call())
    await asyncio.sleep(0)
    stream = Stream(session)
    await asyncio.sleep(0)
    inside.set()
    await first
    with pytest.raises(SessionBusy):
        await second
    await until(lambda: stream.has_it)
    stream.leave.set()
    await stream.task


async def test_a_session_without_frames_ends_after_its_idle_timeout() -> None:
    given = bench()
    session = given.session(options=pb.SessionOptions(idle_timeout=Duration(seconds=60)))
    await given.track(session, 1, start())
    given.time.now += 59
    await given.track(session, 2)
    given.time.now += 59
    given.front.table.expire()
    assert len(given.front.table) == 1
    given.time.now += 2
    given.front.table.expire()
    assert len(given.front.table) == 0
    await given.front.table.wait_closed()
    assert given.engine.released == given.engine.used[:1]


async def test_an_idle_session_ends_its_stream_with_the_reason() -> None:
    given = bench()
    stream = Stream(given.session())
    await until(lambda: stream.has_it)
    given.time.now += 301
    given.front.table.expire()
    with pytest.raises(SessionNotFound, match="no frame for 300 s"):
        await stream.task


async def test_a_frame_under_way_keeps_its_session() -> None:
    given = bench()
    _session, step = await with_a_frame_under_way(given)
    given.time.now += 1000
    given.front.table.expire()
    assert len(given.front.table) == 1
    given.engine.gate.set()
    assert (await step).outcome == pb.FRAME_OUTCOME_PROCESSED
    given.front.table.expire()
    assert len(given.front.table) == 1


async def test_a_frame_that_waits_to_be_decoded_keeps_its_session() -> None:
    given = bench()
    session = given.session()
    async with session.turn():
        given.time.now += 1000
        given.front.table.expire()
    given.time.now += 299
    given.front.table.expire()
    assert len(given.front.table) == 1


async def test_a_session_that_ends_slowly_holds_up_no_other() -> None:
    given = bench()
    table, slow, leave = given.front.table, given.session("slow"), asyncio.Event()

    async def leave_late() -> None:
        with Holder() as holder:
            async with slow.hold(holder):
                try:
                    await asyncio.Event().wait()
                finally:
                    await leave.wait()

    stream = asyncio.create_task(leave_late())
    await asyncio.sleep(0)
    for name in ("second", "third"):
        given.session(name)
        given.time.now += 301
        table.expire()
        assert len(table) == 0
    closed = asyncio.create_task(table.wait_closed())
    await asyncio.sleep(0)
    assert not closed.done()
    leave.set()
    await closed
    with pytest.raises(SessionNotFound):
        await stream


async def test_whoever_waits_for_a_session_that_ends_is_told() -> None:
    given = bench()
    session = given.session()
    await given.track(session, 1, start())
    given.engine.gate.clear()
    step = asyncio.create_task(given.track(session, 2))
    waits = asyncio.create_task(given.track(session, 3))
    await until(lambda: given.engine.waiting == 1)
    end = asyncio.create_task(given.front.table.end(session, SessionNotFound("deleted")))
    await asyncio.sleep(0)
    given.engine.gate.set()
    assert (await step).outcome == pb.FRAME_OUTCOME_PROCESSED
    with pytest.raises(SessionNotFound, match="deleted"):
        await waits
    await end
    assert given.engine.released == given.engine.used[:1]


async def test_a_session_ends_to_its_end_though_whoever_ends_it_has_left() -> None:
    given = bench()
    session, step = await with_a_frame_under_way(given)
    end = asyncio.create_task(given.front.table.end(session, SessionNotFound("deleted")))
    await asyncio.sleep(0)
    end.cancel()
    await asyncio.gather(end, return_exceptions=True)
    given.engine.gate.set()
    await step
    await given.front.table.wait_closed()
    assert given.engine.released == given.engine.used

"""Streams as a client opens them, over a real connection to a front whose engine is a fake."""

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator
from typing import Any

import fake_calls
import grpc
import pytest
import pytest_asyncio
from fake_calls import ENSURE, START, Call, Service, event, reason, result, send, serving
from fake_front import DROPPED, GOOD, PROCESSED, REJECTED, bench, until
from google.protobuf.duration_pb2 import Duration
from grpc import aio

from mixformer.tracking.v1 import tracking_pb2 as pb
from service.config import Limits
from service.front.calls.inbox import DEPTH
from service.front.calls.malformed import Malformed

LIMITS = Limits(max_sessions=6, max_streams=3, max_frame_bytes=1024 * 1024)


@pytest_asyncio.fixture
async def service() -> AsyncIterator[Service]:
    async with serving(bench(LIMITS), LIMITS.max_frame_bytes) as started:
        yield started


async def test_a_stream_begins_with_its_session_and_its_options_as_granted(service: Service) -> None:
    call = service.stub.TrackStream()
    options = pb.SessionOptions(update_interval_frames=7, idle_timeout=Duration(seconds=60))
    await call.write(pb.TrackStreamRequest(config=pb.StreamConfig(options=options)))
    session = (await event(call)).session
    assert len(session.session_id) >= 22
    assert (session.options.update_interval_frames, session.options.online_templates) == (7, 2)
    assert session.expire_time.seconds - session.create_time.seconds == 60
    assert session.epoch == 1


async def test_every_frame_has_one_result_in_order(service: Service) -> None:
    call = await service.open()
    await send(call, 0, START)
    for number in range(1, 20):
        await send(call, number, encoded=GOOD if number % 3 else b"bad")
    await call.done_writing()
    results = [await result(call) for _ in range(20)]
    assert [each.frame_number for each in results] == list(range(20))
    assert [each.outcome for each in results[1:]] == [PROCESSED if number % 3 else REJECTED for number in range(1, 20)]
    assert await call.read() is aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_blocking_holds_the_client_back_and_loses_nothing(service: Service) -> None:
    call = await service.begin()
    service.engine.gate.clear()
    large = GOOD + bytes(500_000)
    sent = 0

    async def write() -> None:
        nonlocal sent
        for number in range(1, 40):
            await send(call, number, encoded=large)
            sent = number

    writer = asyncio.create_task(write())
    # One is tracked, one is decoded, DEPTH wait and one more is read. The next is larger than the flow-control window.
    await until(lambda: is_full(service) and sent == DEPTH + 3)
    service.engine.gate.set()
    assert [(await result(call)).frame_number for _ in range(39)] == list(range(1, 40))
    await writer


async def test_the_newest_frame_wins_and_the_others_are_dropped_in_order(service: Service) -> None:
    call = await service.begin(options=pb.SessionOptions(overload_policy=pb.OVERLOAD_POLICY_DROP_OLDEST))
    await service.hold_up(call, 1)
    for number in range(2, 6):
        await send(call, number, *([ENSURE] if number == 3 else []))
    await call.done_writing()
    await until(lambda: all_read(service))
    service.engine.gate.set()
    results = [await result(call) for _ in range(5)]
    assert [(each.frame_number, each.outcome) for each in results] == [
        (1, PROCESSED), (2, DROPPED), (3, PROCESSED), (4, DROPPED), (5, PROCESSED),
    ]  # fmt: skip
    assert results[1].error.reason == "FRAME_SUPERSEDED"


def is_full(service: Service) -> bool:
    """Whether the only stream has no room for another frame, and reads no further."""
    (stream,) = service.servicer.streams._open.values()
    return stream is not None and len(stream._inbox._waiting) == DEPTH and stream._inbox._putting == 1


def all_read(service: Service) -> bool:
    """Whether the only stream has read all that its client sent."""
    (stream,) = service.servicer.streams._open.values()
    return stream is not None and stream._inbox.is_closed


async def test_a_second_stream_takes_over_and_goes_on_with_the_targets(service: Service) -> None:
    first = await service.begin(session_id="cam")
    await service.hold_up(first, 1)
    second = service.stub.TrackStream()
    await second.write(pb.TrackStreamRequest(config=pb.StreamConfig(session_id="cam")))
    session = (await event(second)).session
    assert (session.epoch, [each.target_id for each in session.targets]) == (2, [""])
    assert await reason(first) == (grpc.StatusCode.ABORTED, "SESSION_TAKEN_OVER")
    assert (service.engine.cancelled, service.engine.waiting) == (1, 0)
    service.engine.gate.set()
    await send(second, 2)
    assert (await result(second)).outcome == PROCESSED


async def test_every_stream_that_is_taken_over_is_told_so_though_it_was_just_answering(service: Service) -> None:
    config = pb.StreamConfig(session_id="contested")
    for _ in range(16):
        rivals = [service.stub.TrackStream() for _ in range(3)]
        await asyncio.gather(*(rival.write(pb.TrackStreamRequest(config=config)) for rival in rivals))
        ends = [asyncio.create_task(status_at_its_end(rival)) for rival in rivals]
        await until(lambda ends=ends: sum(end.done() for end in ends) == 2)  # type: ignore[misc]
        assert [end.result() for end in ends if end.done()] == [grpc.StatusCode.ABORTED] * 2
        for rival in rivals:
            rival.cancel()
        await asyncio.gather(*ends, return_exceptions=True)
        await until(lambda: len(service.servicer.streams) == 0)


async def status_at_its_end(call: Call) -> grpc.StatusCode:
    with contextlib.suppress(aio.AioRpcError):
        while await call.read() is not aio.EOF:
            pass
    return await call.code()


async def test_a_session_that_never_had_a_target_ends_with_the_stream_that_began_it(service: Service) -> None:
    for number in range(LIMITS.max_sessions + 2):
        call = await service.open()
        await send(call, number, encoded=b"bad")
        assert (await result(call)).outcome == REJECTED
        await call.done_writing()
        assert await call.read() is aio.EOF
        assert await call.code() is grpc.StatusCode.OK
    vanishing = await service.open()
    vanishing.cancel()
    await until(lambda: len(service.servicer.streams) == 0)
    assert len(service.bench.front.table) == 0


async def test_a_session_without_targets_outlives_its_first_stream_where_another_has_it(service: Service) -> None:
    first = await service.open(session_id="cam")
    second = await service.open(session_id="cam")
    assert await reason(first) == (grpc.StatusCode.ABORTED, "SESSION_TAKEN_OVER")
    await send(second, 0, START)
    assert (await result(second)).outcome == PROCESSED


async def test_a_wrong_option_does_not_cost_the_stream_that_has_the_session(service: Service) -> None:
    first = await service.open(session_id="cam")
    second = service.stub.TrackStream()
    wrong = pb.StreamConfig(session_id="cam", options=pb.SessionOptions(online_templates=99))
    await second.write(pb.TrackStreamRequest(config=wrong))
    assert await reason(second) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    await send(first, 0, START)
    assert (await result(first)).outcome == PROCESSED


async def test_a_client_that_vanishes_leaves_its_session_for_the_next_stream(service: Service) -> None:
    call = await service.begin(session_id="cam")
    await service.hold_up(call, 1)
    call.cancel()
    await until(lambda: service.engine.waiting == 0 and len(service.servicer.streams) == 0)
    service.engine.gate.set()
    again = await service.open(session_id="cam")
    await send(again, 2)
    assert (await result(again)).outcome == PROCESSED


@pytest.mark.parametrize(
    "first",
    [
        pb.TrackStreamRequest(frame=pb.Frame(encoded=GOOD)),
        pb.TrackStreamRequest(config=pb.StreamConfig(session_id="x" * 200)),
    ],
)
async def test_a_stream_that_begins_wrongly_is_ended_with_the_reason(service: Service, first: pb.TrackStreamRequest) -> None:
    call = service.stub.TrackStream()
    await call.write(first)
    assert await reason(call) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


async def test_a_stream_may_repeat_its_config_but_not_change_it(service: Service) -> None:
    config = pb.StreamConfig(session_id="cam")
    call = await service.open(session_id="cam")
    await call.write(pb.TrackStreamRequest(config=config, frame=pb.Frame(encoded=GOOD), targets=[START]))
    await call.write(pb.TrackStreamRequest(config=config))
    await call.write(pb.TrackStreamRequest(config=pb.StreamConfig(session_id="other")))
    assert (await result(call)).outcome == PROCESSED
    assert await reason(call) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


async def test_streams_over_the_limit_are_refused(service: Service) -> None:
    for _ in range(LIMITS.max_streams):
        await service.open()
    call = service.stub.TrackStream()
    await call.write(pb.TrackStreamRequest(config=pb.StreamConfig()))
    assert await reason(call) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS")


async def test_a_frame_over_the_limit_is_refused_in_band_and_beyond_the_transport_the_stream_ends(service: Service) -> None:
    call = await service.open()
    await send(call, 0, START, encoded=bytes(LIMITS.max_frame_bytes + 1))
    refused = await result(call)
    assert (refused.outcome, refused.error.reason) == (REJECTED, "FRAME_TOO_LARGE")
    await send(call, 1, START)
    assert (await result(call)).outcome == PROCESSED
    await send(call, 2, encoded=bytes(2 * LIMITS.max_frame_bytes + 1))
    with pytest.raises(aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_message_with_commands_but_without_a_frame_is_answered(service: Service) -> None:
    call = await service.begin()
    await call.write(pb.TrackStreamRequest(targets=[pb.TargetCommand(remove=True)]))
    refused = await result(call)
    assert (refused.outcome, refused.error.reason) == (REJECTED, "BAD_FRAME")
    await send(call, 1)
    assert (await result(call)).error.reason == "NO_TARGET"


async def test_a_frame_that_has_come_keeps_its_session_though_it_waits_to_be_decoded(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = service.room_for_decoding(monkeypatch)
    call = await service.open(session_id="cam")
    session = service.bench.found("cam")
    service.bench.time.now += 299
    await send(call, 0, START)
    await until(lambda: session.idle_seconds_left == 300)
    service.bench.time.now += 299
    service.bench.front.table.expire()
    room.set()
    assert (await result(call)).outcome == PROCESSED


async def test_deleting_a_session_ends_its_stream_with_the_reason(service: Service) -> None:
    call = await service.open(session_id="cam")
    await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id="cam"))
    assert await reason(call) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")


async def test_draining_tells_the_streams_answers_what_is_in_hand_and_lets_nobody_in(service: Service) -> None:
    call = await service.begin()
    silent = service.stub.TrackStream()
    await silent.wait_for_connection()
    service.engine.gate.clear()
    for number in (1, 2):
        await send(call, number)
    decoded = "mixformer_decode_latency_seconds_count"
    await until(lambda: service.bench.metrics.registry.get_sample_value(decoded) == 3)
    await until(lambda: service.engine.waiting == 1 and len(service.servicer.streams) == 2)
    draining = asyncio.create_task(service.servicer.drain(5))
    assert (await event(call)).draining.deadline.seconds == 5
    assert await reason(silent) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert await reason(service.track("new", 0, START)) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    service.engine.gate.set()
    assert [(await result(call)).frame_number for _ in range(2)] == [1, 2]
    assert await reason(call) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    await draining


async def test_draining_does_not_wait_longer_than_its_grace(service: Service) -> None:
    call = await service.begin()
    await service.hold_up(call, 1)
    async with asyncio.timeout(3):
        await service.servicer.drain(0.2)


class Parsed:
    """A message that a test can see the end of."""

    def __init__(self, message: pb.TrackStreamRequest) -> None:
        self._message = message

    def __getattr__(self, name: str) -> Any:
        return getattr(self._message, name)


async def test_no_message_stays_in_memory_once_it_has_been_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[weakref.ref[Parsed]] = []

    def parsed(received: bytes) -> Parsed:
        message = Parsed(pb.TrackStreamRequest.FromString(received))
        read.append(weakref.ref(message))
        return message

    class Watching(Malformed):
        async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
            handler: Any = await super().intercept_service(continuation, details)
            return handler._replace(request_deserializer=parsed)

    monkeypatch.setattr(fake_calls, "Malformed", Watching)
    async with serving(bench()) as service:
        call = await service.begin()
        await until(lambda: len(read) == 2 and not any(each() for each in read))
        await service.hold_up(call, 1)
        for number in range(2, 6):
            await send(call, number)
        await until(lambda: len(read) == 7 and not any(each() for each in read))
        service.engine.gate.set()

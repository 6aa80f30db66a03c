"""Requests that make no sense before anybody has looked at them: ids that no session can have, bytes that are no message."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from fake_calls import START, Service, event, reason, result, send, serving
from fake_front import GOOD, PROCESSED, bench
from google.protobuf.duration_pb2 import Duration
from grpc import aio

from mixformer.tracking.v1 import tracking_pb2 as pb

INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
METHODS = "/mixformer.tracking.v1.TrackingService/"
NO_MESSAGE = b"\xff" * 5


@pytest_asyncio.fixture
async def service() -> AsyncIterator[Service]:
    async with serving(bench()) as started:
        yield started


@pytest.mark.parametrize("session_id", ["x" * 129, "x" * 20_000, "two\nlines", "käse"])
async def test_ids_that_no_metadata_could_carry_are_refused_by_every_method(service: Service, session_id: str) -> None:
    stub = service.stub
    call = stub.TrackStream()
    await call.write(pb.TrackStreamRequest(config=pb.StreamConfig(session_id=session_id)))
    unary = (
        stub.GetSession(pb.GetSessionRequest(session_id=session_id)),
        stub.DeleteSession(pb.DeleteSessionRequest(session_id=session_id)),
        stub.Track(pb.TrackRequest(session_id=session_id, targets=[START])),
    )
    assert [await reason(each) for each in (call, *unary)] == [INVALID] * 4


async def test_bytes_that_are_no_message_are_refused(service: Service) -> None:
    async with aio.insecure_channel(service.address) as channel:
        given: dict[str, Any] = {"request_serializer": bytes, "response_deserializer": bytes}
        assert await reason(channel.unary_unary(METHODS + "GetSession", **given)(NO_MESSAGE)) == INVALID
        first = channel.stream_stream(METHODS + "TrackStream", **given)()
        await first.write(NO_MESSAGE)
        assert await reason(first) == INVALID
        later: Any = channel.stream_stream(
            METHODS + "TrackStream", request_serializer=bytes, response_deserializer=pb.TrackStreamResponse.FromString
        )()
        await later.write(pb.TrackStreamRequest(config=pb.StreamConfig()).SerializeToString())
        await event(later)
        await later.write(NO_MESSAGE)
        assert await reason(later) == INVALID
    ended = {"method": "TrackStream", "end": "invalid_request"}
    assert service.bench.metrics.registry.get_sample_value("mixformer_calls_total", ended) == 2


def field(number: int, content: bytes) -> bytes:
    """A field of bytes, of text or with a message, below 2 MiB."""
    size = len(content)
    return bytes((number << 3 | 2, size & 127 | 128, size >> 7 & 127 | 128, size >> 14)) + content


MANY = [
    pytest.param(field(3, b"") * 300_000, id="commands"),
    pytest.param(field(2, b"\x1a\x00\x22\x00" * 300_000), id="pictures of one frame"),
    pytest.param(field(3, b"\x12\x00\x1a\x00" * 300_000), id="actions of one command"),
    pytest.param(b"\x7a\x00" * 300_000, id="of no known field"),
]


@pytest.mark.parametrize("message", MANY)
async def test_a_message_of_more_fields_than_there_is_to_say_is_refused_unread(service: Service, message: bytes) -> None:
    async with aio.insecure_channel(service.address) as channel:
        given: dict[str, Any] = {"request_serializer": bytes, "response_deserializer": bytes}
        call = channel.unary_unary(METHODS + "Track", **given)(message)
        assert await reason(call) == INVALID
        assert f"{len(message)} bytes has over 4096 fields" in str(await call.details())
        stream = channel.stream_stream(METHODS + "TrackStream", **given)()
        await stream.write(message)
        assert await reason(stream) == INVALID


async def test_a_large_frame_with_all_the_commands_that_it_may_carry_is_read(service: Service) -> None:
    call = await service.open()
    ensure = pb.BoundingBox(x=100.5, y=80.5, width=40.5, height=40.5)
    commands = [pb.TargetCommand(target_id="x" * 128, ensure=ensure)] * 256
    await send(call, 0, *commands, encoded=GOOD + bytes(2**17))
    assert (await result(call)).outcome == PROCESSED


@pytest.mark.parametrize("message", [b"\xff" * 2**17, b"\x12" * 2**17, field(2, b"\x1a\xff\xff\x7f" + bytes(2**17))])
async def test_a_large_message_that_is_none_is_refused(service: Service, message: bytes) -> None:
    async with aio.insecure_channel(service.address) as channel:
        given: dict[str, Any] = {"request_serializer": bytes, "response_deserializer": bytes}
        assert await reason(channel.unary_unary(METHODS + "Track", **given)(message)) == INVALID


async def test_an_age_that_no_answer_could_name_is_refused(service: Service) -> None:
    call = service.stub.TrackStream()
    options = pb.SessionOptions(max_frame_age=Duration(seconds=2**63 - 1))
    await call.write(pb.TrackStreamRequest(config=pb.StreamConfig(options=options)))
    assert await reason(call) == INVALID
    good = await service.open()
    await send(good, 2**64 - 1, START)
    assert (await result(good)).frame_number == 2**64 - 1

"""Hostile calls of the real front over a real connection, while another session tracks; the engine behind it is a fake."""

import asyncio
from collections import Counter
from random import Random

import grpc
from fake_calls import START, Service, result, send, serving
from fake_front import bench, until
from fuzz.requests import Request, request
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status

from mixformer.tracking.v1 import tracking_pb2 as pb
from service.config import Limits

INPUTS = 400
METHODS = "/mixformer.tracking.v1.TrackingService/"
OURS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED}
LIMITS = Limits(max_frame_bytes=1024 * 1024, max_frame_pixels=1_000_000, max_targets_per_session=4)


def outcome(channel: grpc.Channel, given: Request) -> str:
    """What became of a call: "OK", or the reason of its refusal. Every frame's own refusal is looked at too."""
    try:
        if given.method != "TrackStream":
            unary = channel.unary_unary(METHODS + given.method, request_serializer=bytes, response_deserializer=bytes)
            answer = unary(given.messages[0], metadata=given.metadata, timeout=60)
            if given.method == "Track":
                check_result(pb.TrackResponse.FromString(answer).result)
            return "OK"
        stream = channel.stream_stream(
            METHODS + given.method, request_serializer=bytes, response_deserializer=pb.TrackStreamResponse.FromString
        )
        # grpc.aio's own streams would call a refusal that comes while they write INTERNAL.
        for event in stream(iter(given.messages), metadata=given.metadata, timeout=60):
            if event.HasField("result"):
                check_result(event.result)
    except grpc.RpcError as error:
        assert isinstance(error, grpc.Call)
        assert error.code() not in OURS, error
        assert "Traceback" not in (error.details() or "")
        return reason(error)
    return "OK"


def reason(error: grpc.Call) -> str:
    """The reason that every refusal carries."""
    status = rpc_status.from_call(error)
    assert status is not None, error
    detail = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(detail)
    return str(detail.reason)


def check_result(answer: pb.FrameResult) -> None:
    """No frame is refused for a fault of ours."""
    assert answer.error.code not in (2, 13), answer.error
    assert "Traceback" not in answer.error.message and len(answer.error.message) < 1000


def calls(address: str) -> Counter[str]:
    """What became of them all."""
    with grpc.insecure_channel(address) as channel:
        return Counter(outcome(channel, request(Random(seed))) for seed in range(INPUTS))


async def boxes(service: Service, until: asyncio.Event) -> list[bytes]:
    """What another session is told, frame by frame, until the time has come."""
    call = await service.open(session_id="undisturbed")
    seen: list[bytes] = []
    while not until.is_set() or len(seen) < 10:
        await send(call, len(seen), *([START] if not seen else []))
        seen.append((await result(call)).targets[0].box.SerializeToString())
    await call.done_writing()
    assert await call.read() is aio.EOF
    return seen


async def test_every_call_is_answered_or_refused_and_another_session_notices_nothing() -> None:
    over = asyncio.Event()
    async with serving(bench(LIMITS)) as service:
        solo = await boxes(service, _set())
        before = len(asyncio.all_tasks())
        beside = asyncio.create_task(boxes(service, over))
        outcomes = await asyncio.to_thread(calls, service.address)
        over.set()
        seen = await beside
        assert set(seen) == set(solo) and len(seen) >= 10
        stub = service.stub
        for session in (await stub.ListSessions(pb.ListSessionsRequest(page_size=1000))).sessions:
            await stub.DeleteSession(pb.DeleteSessionRequest(session_id=session.session_id))
        assert len(service.servicer.streams) == len(service.bench.front.table) == 0
        await until(lambda: len(asyncio.all_tasks()) <= before)
    assert outcomes["OK"] and outcomes["INVALID_REQUEST"], outcomes


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event

"""Hostile calls of the real front over a real connection, while another session tracks; the engine behind it is a fake."""

import asyncio

from fake_calls import START, Service, result, send, serving
from fake_front import bench, until
from fuzz.calls import calls
from grpc import aio

from mixformer.tracking.v1 import tracking_pb2 as pb
from service.config import Limits

INPUTS = 400
LIMITS = Limits(max_frame_bytes=1024 * 1024, max_frame_pixels=1_000_000, max_targets_per_session=4)


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
        outcomes = await asyncio.to_thread(calls, service.address, range(INPUTS))
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

"""Calls of a front whose engine is a fake, over a real connection."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from fake_front import BOX, GOOD, Bench, until
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status

from mixformer.tracking.v1 import tracking_pb2 as pb
from mixformer.tracking.v1.tracking_pb2_grpc import TrackingServiceStub, add_TrackingServiceServicer_to_server
from service.errors import ServiceError
from service.front.calls.malformed import Malformed
from service.front.calls.servicer import TrackingServicer
from service.front.frames import Frame
from service.front.tracking.budget import Decoded
from service.front.tracking.session import Session

if TYPE_CHECKING:  # it exists for type checkers alone
    from mixformer.tracking.v1.tracking_pb2_grpc import TrackingServiceAsyncStub

WHERE = pb.BoundingBox(x=BOX.x, y=BOX.y, width=BOX.width, height=BOX.height)
START = pb.TargetCommand(initialize=WHERE)
ENSURE = pb.TargetCommand(ensure=WHERE)

Call = aio.StreamStreamCall[pb.TrackStreamRequest, pb.TrackStreamResponse]


class Service:
    """A front that serves, and a client of it."""

    def __init__(self, given: Bench, servicer: TrackingServicer, stub: "TrackingServiceAsyncStub", address: str) -> None:
        self.bench = given
        self.engine = given.engine
        self.servicer = servicer
        self.stub = stub
        self.address = address

    async def open(self, **config: Any) -> Call:
        """A stream that has its session."""
        call = self.stub.TrackStream()
        await call.write(pb.TrackStreamRequest(config=pb.StreamConfig(**config)))
        assert (await event(call)).HasField("session")
        return call

    async def begin(self, **config: Any) -> Call:
        """A stream whose first frame, number 0, has started a target and has its result."""
        call = await self.open(**config)
        await send(call, 0, START)
        await result(call)
        return call

    async def hold_up(self, call: Call, number: int) -> None:
        """Send a frame that the device does not answer, nor any after it, until the engine's gate is set."""
        self.engine.gate.clear()
        await send(call, number)
        await until(lambda: self.engine.waiting == 1)

    def room_for_decoding(self, patch: pytest.MonkeyPatch) -> asyncio.Event:
        """Set once there is room; until then every frame waits for it."""
        room, prepare = asyncio.Event(), self.bench.front.tracker.prepare

        async def when_there_is_room(session: Session, frame: Frame) -> Decoded | ServiceError:
            await room.wait()
            return await prepare(session, frame)

        patch.setattr(self.bench.front.tracker, "prepare", when_there_is_room)
        return room

    async def track(self, session_id: str, number: int, *commands: pb.TargetCommand) -> pb.FrameResult:
        """One frame in a call of its own."""
        request = pb.TrackRequest(session_id=session_id, frame=pb.Frame(frame_number=number, encoded=GOOD), targets=commands)
        return (await self.stub.Track(request)).result


@asynccontextmanager
async def serving(given: Bench, max_frame_bytes: int = 1024 * 1024) -> AsyncIterator[Service]:
    """The front, served on a port of its own."""
    servicer = TrackingServicer(given.front)
    # Without the probe the flow-control window keeps its 64 KiB.
    options = [("grpc.max_receive_message_length", 2 * max_frame_bytes), ("grpc.http2.bdp_probe", 0)]
    server = aio.server(interceptors=[Malformed()], options=options)
    add_TrackingServiceServicer_to_server(servicer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with aio.insecure_channel(address) as channel:
        yield Service(given, servicer, TrackingServiceStub(channel), address)
    await server.stop(0)


async def event(call: Call) -> pb.TrackStreamResponse:
    """The next event; five seconds is never."""
    async with asyncio.timeout(5):
        found = await call.read()
    assert isinstance(found, pb.TrackStreamResponse), f"stream ended: {await call.code()} {await call.details()}"
    return found


async def result(call: Call) -> pb.FrameResult:
    """The next event, which is a result."""
    found = await event(call)
    assert found.HasField("result")
    return found.result


async def send(call: Call, number: int, *commands: pb.TargetCommand, encoded: bytes = GOOD) -> None:
    await call.write(pb.TrackStreamRequest(frame=pb.Frame(frame_number=number, encoded=encoded), targets=commands))


async def reason(call: Any) -> tuple[grpc.StatusCode, str]:
    """How a call ended: its status, and the reason of its ErrorInfo."""
    async with asyncio.timeout(5):
        with pytest.raises(aio.AioRpcError) as caught:
            await (call.read() if isinstance(call, aio.StreamStreamCall) else call)
    ended: Any = caught.value
    status = rpc_status.from_call(ended)
    assert status is not None
    detail = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(detail)
    assert detail.domain == "mixformer.tracking"
    return ended.code(), detail.reason

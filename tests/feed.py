"""A client's stream to a real service, one frame at a time, with everything that comes back kept."""

import asyncio
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import grpc
import simplejpeg
from grpc import aio
from processes import PATIENCE_SECONDS

from mixformer.tracking.v1 import tracking_pb2 as pb
from mixformer.tracking.v1.tracking_pb2_grpc import TrackingServiceStub
from service.commands.synthetic import synthetic_clip

FRAMES = 14
# The templates change on the way: what goes on must go on with them. No score is close to the threshold, whatever the weights'.
OPTIONS = pb.SessionOptions(update_interval_frames=4, candidate_score_threshold=0.5, return_resume_token=True)


@cache
def clip() -> tuple[tuple[bytes, ...], pb.BoundingBox]:
    """A moving square as JPEG, and where it is on the first frame."""
    frames = list(synthetic_clip(320, 240, FRAMES))
    box = frames[0][1]
    first = pb.BoundingBox(x=box.x, y=box.y, width=box.width, height=box.height)
    return tuple(simplejpeg.encode_jpeg(image, quality=95) for image, _ in frames), first


def request(number: int) -> pb.TrackStreamRequest:
    """The clip's frame of this number, round and round; the first one starts the target."""
    frames, box = clip()
    frame = pb.Frame(frame_number=number, encoded=frames[number % FRAMES])
    return pb.TrackStreamRequest(frame=frame, targets=[pb.TargetCommand(initialize=box)] if number == 0 else [])


@dataclass
class Feed:
    """An open stream. `boxes` are those of its results, by frame; `token` is the last that came."""

    call: Any
    session: pb.Session
    boxes: dict[int, tuple[float, ...]] = field(default_factory=dict)
    token: pb.ResumeToken | None = None
    draining: pb.Draining | None = None

    @classmethod
    async def open(cls, channel: aio.Channel, **config: Any) -> "Feed":
        """A stream that has its session."""
        call = TrackingServiceStub(channel).TrackStream()
        await call.write(pb.TrackStreamRequest(config=pb.StreamConfig(**config)))
        async with asyncio.timeout(PATIENCE_SECONDS):
            event: Any = await call.read()
        return cls(call, event.session)

    async def send(self, *numbers: int) -> None:
        for number in numbers:
            await self.call.write(request(number))

    async def track(self, first: int, last: int) -> None:
        """Frames one after the other, each with its result."""
        for number in range(first, last + 1):
            await self.send(number)
            while number not in self.boxes:
                assert await self.read(), f"ended before frame {number}: {await self.call.code()}"

    async def read(self) -> bool:
        """Take in the next event; whether there was one."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            try:
                event = await self.call.read()
            except aio.AioRpcError:
                return False
        if event is aio.EOF:
            return False
        if event.HasField("result"):
            result = event.result
            assert result.outcome == pb.FRAME_OUTCOME_PROCESSED, result
            box = result.targets[0].box
            self.boxes[result.frame_number] = (box.x, box.y, box.width, box.height)
        if event.HasField("resume_token"):
            self.token = event.resume_token
        if event.HasField("draining"):
            self.draining = event.draining
        return True

    async def end(self) -> grpc.StatusCode:
        """Take in all that is left; how the stream ended."""
        while await self.read():
            pass
        code: grpc.StatusCode = await self.call.code()
        return code

"""Clients for `make soak`, each with something to do, or to break: see `Client`."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
from cameras import BOX, DROPPED, FRAMES, PROCESSED, Camera, Refused, Tally, camera, initialize
from google.protobuf.duration_pb2 import Duration
from grpc import aio

from mixformer.tracking.v1 import tracking_pb2 as pb
from mixformer.tracking.v1.tracking_pb2_grpc import TrackingServiceStub

if TYPE_CHECKING:  # it exists for type checkers alone
    from mixformer.tracking.v1.tracking_pb2_grpc import TrackingServiceAsyncStub

PATIENCE_SECONDS = 30.0
_IDLE = Duration(seconds=2)
BLOCK = pb.SessionOptions(idle_timeout=_IDLE)
LIVE = pb.SessionOptions(idle_timeout=_IDLE, overload_policy=pb.OVERLOAD_POLICY_DROP_OLDEST)
STRICT = pb.SessionOptions(idle_timeout=_IDLE, strict_order=True)


@dataclass
class Pace:
    """Tickets for frames, so that all clients together send at one rate."""

    rate: float
    _next_at: float = 0.0

    async def ticket(self) -> None:
        """Wait for one's turn to send a frame."""
        now = time.perf_counter()
        self._next_at = max(self._next_at, now - 0.1) + 1 / self.rate
        await asyncio.sleep(self._next_at - now)


@dataclass
class Client:
    """One client after another, each drawn at random; what they saw is added up over all of them.

    `done` counts clients by what they did, `unprovoked` has the errors that nobody asked for.
    """

    address: str
    pace: Pace
    chance: random.Random
    tally: Tally
    done: Counter[str] = field(default_factory=Counter)
    abandoned: int = 0
    unprovoked: list[str] = field(default_factory=list)

    async def run(self, until: float) -> None:
        """Until the time has come."""
        kinds = (
            self.track, self.live, self.cancel, self.vanish, self.garble, self.replay, self.take_over, self.single, self.hurry,
            self.remove,
        )  # fmt: skip
        while time.perf_counter() < until:
            kind = self.chance.choice(kinds)
            try:
                async with aio.insecure_channel(self.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                    await kind(channel)
                self.done[kind.__name__] += 1
            except Refused:
                self.done["refused"] += 1
            except (AssertionError, ConnectionError, aio.AioRpcError) as error:
                self.unprovoked.append(f"{kind.__name__}: {error!r}"[:300])

    async def track(self, channel: aio.Channel) -> None:
        """Several targets over many frames."""
        names = "abc"[: self.chance.randint(1, 3)]
        async with self._begun(channel, BLOCK, *(initialize(name) for name in names)) as each:
            await self._go_on(each, 40)
            await each.end()

    async def live(self, channel: aio.Channel) -> None:
        """Frames that come before the last is answered; some are superseded."""
        async with self._begun(channel, LIVE) as each:
            for _ in range(self.chance.randint(1, 10)):
                burst = self.chance.randint(1, 4)
                for _ in range(burst):
                    await self.pace.ticket()
                    await each.send()
                for _ in range(burst):
                    result = await each.receive(time.perf_counter())
                    assert result.outcome in (PROCESSED, DROPPED), result
            await each.end()

    async def cancel(self, channel: aio.Channel) -> None:
        """A call that is cancelled with frames under way."""
        async with self._begun(channel, BLOCK, is_broken_off=True) as each:
            await self._go_on(each, 5)
            for _ in range(self.chance.randint(1, 3)):
                await self.pace.ticket()
                await each.send()

    async def vanish(self, channel: aio.Channel) -> None:
        """A connection that is closed with frames under way."""
        async with self._begun(channel, BLOCK, is_broken_off=True) as each:
            await self.pace.ticket()
            await each.send()
            await channel.close()

    async def garble(self, channel: aio.Channel) -> None:
        """Pictures that are none, and boxes that are nowhere."""
        async with self._begun(channel, BLOCK) as each:
            picture = bytearray(FRAMES[0][: self.chance.randint(0, len(FRAMES[0]) // 2)])
            await self._refused(each, "BAD_FRAME", picture=bytes(picture))
            nowhere = pb.BoundingBox(x=self.chance.uniform(500, 1e9), y=0, width=10, height=10)
            await self._refused(each, "BAD_BOX", initialize("", nowhere))
            await self._go_on(each, 5)
            await each.end()

    async def replay(self, channel: aio.Channel) -> None:
        """A frame that was sent before."""
        async with self._begun(channel, STRICT) as each:
            await self._go_on(each, 5)
            each.number -= 1
            await self._refused(each, "FRAME_OUT_OF_ORDER")
            await self._go_on(each, 5)
            await each.end()

    async def take_over(self, channel: aio.Channel) -> None:
        """One session, opened twice."""
        name = f"twice-{self.chance.getrandbits(64):x}"
        one, other = (self._begun(channel, BLOCK, session_id=name) for _ in range(2))
        async with one as first, other as second:
            await self._go_on(second, 5)
            assert await first.code() is grpc.StatusCode.ABORTED
            await second.end()

    async def single(self, channel: aio.Channel) -> None:
        """Frames by single calls."""
        name = f"single-{self.chance.getrandbits(64):x}"
        for number in range(self.chance.randint(2, 10)):
            await self._call(channel, name, number, timeout=60.0)

    async def hurry(self, channel: aio.Channel) -> None:
        """Single calls with less time than they need."""
        name = f"hurry-{self.chance.getrandbits(64):x}"
        for number in range(5):
            try:
                await self._call(channel, name, number, timeout=self.chance.uniform(0.001, 0.05))
            except aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise
                self.abandoned += 1

    async def remove(self, channel: aio.Channel) -> None:
        """Frames after the last target was removed."""
        async with self._begun(channel, BLOCK) as each:
            await self.pace.ticket()
            assert (await each.track(pb.TargetCommand(remove=True))).outcome == PROCESSED
            await self._refused(each, "NO_TARGET")
            await each.end()

    @asynccontextmanager
    async def _begun(
        self,
        channel: aio.Channel,
        options: pb.SessionOptions,
        *commands: pb.TargetCommand,
        session_id: str = "",
        is_broken_off: bool = False,
    ) -> AsyncIterator[Camera]:
        """A stream whose targets are tracked. Unless it is broken off, every frame must have its result."""
        own = Tally()
        try:
            async with camera(channel, own, options, session_id) as each:
                await each.begin(PATIENCE_SECONDS, *commands)
                yield each
                assert is_broken_off or own.sent == own.answered, f"{own.sent} frames, {own.answered} results"
        finally:
            self.abandoned += own.sent - own.answered
            self.tally.add(own)

    async def _go_on(self, each: Camera, most: int) -> None:
        for _ in range(self.chance.randint(1, most)):
            await self.pace.ticket()
            result = await each.track()
            assert result.outcome == PROCESSED, result.error

    async def _refused(self, each: Camera, reason: str, *commands: pb.TargetCommand, picture: bytes | None = None) -> None:
        await self.pace.ticket()
        result = await each.track(*commands, picture=picture)
        assert result.error.reason == reason, result.error

    async def _call(self, channel: aio.Channel, session_id: str, number: int, timeout: float) -> None:
        await self.pace.ticket()
        stub: TrackingServiceAsyncStub = TrackingServiceStub(channel)
        frame = pb.Frame(frame_number=number, encoded=FRAMES[number % len(FRAMES)])
        request = pb.TrackRequest(
            session_id=session_id, frame=frame, targets=[pb.TargetCommand(ensure=BOX)], options=BLOCK
        )  # fmt: skip
        due_at = time.perf_counter()
        self.tally.sent += 1
        answer = await stub.Track(request, timeout=timeout)
        self.tally.count(answer.result, due_at)

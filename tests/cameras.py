"""Clients for loads on a running service: cameras that send when a frame is due, and what they make of the answers."""

import asyncio
import random
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import grpc
from grpc import aio
from pictures import encoded, scene
from prometheus_client.parser import text_string_to_metric_families

from mixformer.tracking.v1 import tracking_pb2 as pb
from mixformer.tracking.v1.tracking_pb2_grpc import TrackingServiceStub

if TYPE_CHECKING:  # it exists for type checkers alone
    from mixformer.tracking.v1.tracking_pb2_grpc import TrackingServiceAsyncStub

PROCESSED, DROPPED, REJECTED = pb.FRAME_OUTCOME_PROCESSED, pb.FRAME_OUTCOME_DROPPED, pb.FRAME_OUTCOME_REJECTED
FRAMES = [encoded(scene(seed=seed)) for seed in range(8)]
BOX = pb.BoundingBox(x=100, y=80, width=40, height=40)
# Hundreds of cameras that begin at once on a busy machine may take 20 s.
OPEN_SECONDS = 30.0

Call = aio.StreamStreamCall[pb.TrackStreamRequest, pb.TrackStreamResponse]


class Refused(Exception):
    """There was no room, to the end."""


@dataclass
class Tally:
    """What became of the frames of many cameras. Latencies are in seconds from when a frame was due, of PROCESSED frames."""

    sent: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)

    @property
    def answered(self) -> int:
        """Results, of whatever outcome."""
        return self.outcomes.total()

    def add(self, other: "Tally") -> None:
        """Take in what another one counted."""
        self.sent += other.sent
        self.outcomes += other.outcomes
        self.latencies += other.latencies

    def count(self, result: pb.FrameResult, due_at: float) -> None:
        """A result has come."""
        name = pb.FrameOutcome.Name(result.outcome).removeprefix("FRAME_OUTCOME_").lower()
        self.outcomes[f"{name} {result.error.reason}".strip()] += 1
        if result.outcome == PROCESSED:
            self.latencies.append(time.perf_counter() - due_at)

    def quantile(self, share: float) -> float:
        """A quantile of the latencies; not a number without any."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def figure(url: str, name: str) -> float:
    """A metric of the service, summed over its labels; `name` is without the prefix. Blocks."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return sum(sample.value for family in families for sample in family.samples if sample.name == f"mixformer_{name}")


class Counted(NamedTuple):
    """What a service counts of its frames."""

    received: float
    answered: float
    abandoned: float

    @property
    def is_balanced(self) -> bool:
        """Whether every frame that has come has its result, or was abandoned; so it must be when all calls have ended."""
        return self.received == self.answered + self.abandoned


def counted(url: str) -> Counted:
    """The frames that a service has counted. Blocks."""
    return Counted(*(figure(url, name) for name in ("frames_received_total", "frames_total", "frames_abandoned_total")))


def initialize(name: str = "", box: pb.BoundingBox = BOX) -> pb.TargetCommand:
    """The command that starts a target."""
    return pb.TargetCommand(target_id=name, initialize=box)


class Camera:
    """One open stream with one result for every frame."""

    def __init__(self, call: Call, tally: Tally) -> None:
        self._call = call
        self.tally = tally
        self.number = 0

    async def send(self, *commands: pb.TargetCommand, picture: bytes | None = None) -> None:
        """The next frame."""
        frame = pb.Frame(frame_number=self.number, encoded=FRAMES[self.number % len(FRAMES)] if picture is None else picture)
        self.number += 1
        self.tally.sent += 1
        await self._call.write(pb.TrackStreamRequest(frame=frame, targets=commands))

    async def receive(self, due_at: float) -> pb.FrameResult:
        """The next result. Raises ConnectionError where the stream ends before it."""
        result = (await self._read("result")).result
        self.tally.count(result, due_at)
        return result

    async def track(self, *commands: pb.TargetCommand, picture: bytes | None = None) -> pb.FrameResult:
        """One frame, and its result."""
        due_at = time.perf_counter()
        await self.send(*commands, picture=picture)
        return await self.receive(due_at)

    async def begin(self, patience_seconds: float, *commands: pb.TargetCommand) -> None:
        """Start the targets, as soon as there is room for them. Raises Refused."""
        give_up_at = time.perf_counter() + patience_seconds
        while (result := await self.track(*(commands or (initialize(),)))).outcome != PROCESSED:
            if result.error.reason != "OVERLOADED" or not result.error.HasField("retry_delay"):
                raise AssertionError(f"not refused as full: {result.error}")
            pause = result.error.retry_delay.ToTimedelta().total_seconds() * random.uniform(1.0, 1.5)
            if time.perf_counter() + pause > give_up_at:
                raise Refused
            await asyncio.sleep(pause)

    async def film(self, rate: float, seconds: float) -> None:
        """Frames at a fixed rate, whether or not those before are answered, until all are answered."""
        begins_at = time.perf_counter() + random.uniform(0.0, 1.0 / rate)
        due = [begins_at + number / rate for number in range(max(1, round(seconds * rate)))]

        async def send() -> None:
            for due_at in due:
                await asyncio.sleep(due_at - time.perf_counter())
                await self.send()

        sending = asyncio.create_task(send())
        try:
            for due_at in due:
                await self.receive(due_at)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def open(self, config: pb.StreamConfig) -> pb.Session:
        """Begin the stream; the session as granted. Raises ConnectionError where there is none."""
        try:
            # grpc.aio's first write waits for ever where the connection goes away at that moment.
            async with asyncio.timeout(OPEN_SECONDS):
                await self._call.write(pb.TrackStreamRequest(config=config))
                return (await self._read("session")).session
        except TimeoutError:
            raise ConnectionError(f"no session within {OPEN_SECONDS:g} s") from None

    async def code(self) -> grpc.StatusCode:
        """What the stream ends with, once it has ended."""
        return await self._call.code()

    async def end(self) -> None:
        """End the stream in order; its session goes when it is idle."""
        await self._call.done_writing()
        while isinstance(await self._call.read(), pb.TrackStreamResponse):
            pass

    async def _read(self, kind: str) -> pb.TrackStreamResponse:
        event: object = None
        try:
            while isinstance(event := await self._call.read(), pb.TrackStreamResponse):
                if event.HasField(kind):  # type: ignore[arg-type]
                    return event
        except asyncio.CancelledError:
            # Also raised where the server has ended the call; only then nobody has asked this task to stop.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
        raise ConnectionError(f"the stream ended: {await self._call.code()} {await self._call.details()}")


@asynccontextmanager
async def camera(channel: aio.Channel, tally: Tally, options: pb.SessionOptions, session_id: str = "") -> AsyncIterator[Camera]:
    """A camera on a stream of its own, which is cancelled if it still is open at the end."""
    stub: TrackingServiceAsyncStub = TrackingServiceStub(channel)
    call: Call = stub.TrackStream()
    opened = Camera(call, tally)
    try:
        await opened.open(pb.StreamConfig(session_id=session_id, options=options))
        yield opened
    finally:
        call.cancel()

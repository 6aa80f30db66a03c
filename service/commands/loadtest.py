"""`mixformer loadtest`: many streams at a fixed rate, and what became of their frames."""

import argparse
import asyncio
import time
from dataclasses import dataclass
from typing import Any

import msgspec
from tqdm import tqdm

from mixformer.tracking.v1 import tracking_pb2 as pb
from service.client import ClientError, TrackingClient
from service.client_session import ClientSession
from service.commands.access import access_of
from service.commands.clip import Clip, made_up_clip, recorded_clip
from service.commands.command import CommandError
from service.commands.ghz import export
from service.commands.pace import Schedule, paced, spread
from service.commands.tally import LoadReport, Tally
from service.errors import ServiceError

# All streams open in the time before the first frame is due.
OPENING_SECONDS = 1.0
# How long results are waited for after the last frame was due.
DRAIN_SECONDS = 30.0
POLICIES = {"block": pb.OVERLOAD_POLICY_BLOCK, "drop-oldest": pb.OVERLOAD_POLICY_DROP_OLDEST}


def run(arguments: argparse.Namespace) -> int:
    """Load the server and print what came of it, or only write the clip down for ghz.

    The exit code: 1 where a stream failed or a frame was rejected or unanswered.
    """
    clip = _clip(arguments)
    if arguments.export_ghz is not None:
        print(*export(clip, arguments.export_ghz), sep="\n")
        return 0
    report = asyncio.run(_load(arguments, clip))
    print(msgspec.json.encode(report).decode() if arguments.json else report.to_table())
    return 1 if report.stream_errors or report.rejected or report.unanswered else 0


def _clip(arguments: argparse.Namespace) -> Clip:
    if arguments.source is None:
        return made_up_clip(*arguments.size)
    try:
        return recorded_clip(arguments.source, arguments.box)
    except ServiceError as error:
        raise CommandError(f"{arguments.source}: {error}") from error


async def _load(arguments: argparse.Namespace, clip: Clip) -> LoadReport:
    access = access_of(arguments)
    async with TrackingClient(arguments.server, access) as client:
        await client.server_info()
    schedules = spread(arguments.streams, arguments.rate, arguments.duration, time.perf_counter() + OPENING_SECONDS)
    tally = Tally()
    due = sum(schedule.frame_count for schedule in schedules)
    # disable=None: only where a person watches a terminal
    with tqdm(total=due, unit="frame", disable=None) as progress:
        options = pb.SessionOptions(overload_policy=POLICIES[arguments.policy])
        # A group and no gather: on Ctrl-C every camera ends its session before the command does.
        async with asyncio.TaskGroup() as cameras:
            for schedule in schedules:
                camera = Camera(clip, schedule, tally, progress, arguments.patience)
                cameras.create_task(camera.run(TrackingClient(arguments.server, access), options))
    return tally.report(arguments.rate, schedules)


@dataclass(frozen=True)
class Camera:
    """One stream of the load: sends frames when they are due, whether or not earlier ones are answered."""

    clip: Clip
    schedule: Schedule
    tally: Tally
    progress: "tqdm[Any]"
    patience_seconds: float

    async def run(self, client: TrackingClient, options: pb.SessionOptions) -> None:
        """Until every frame is answered or the stream fails."""
        last_due_at = self.schedule.due_at(self.schedule.frame_count - 1)
        try:
            async with asyncio.timeout(last_due_at - time.perf_counter() + DRAIN_SECONDS):
                async with client, ClientSession(client, options, self.patience_seconds) as session:
                    await self._exchange(session)
        except* ClientError as group:
            self.tally.failed(_status(group))
        except* TimeoutError:
            self.tally.failed("TIMEOUT")

    async def _exchange(self, session: ClientSession) -> None:
        begun = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._send(session, begun))
                tasks.create_task(self._receive(session, begun))
        finally:
            self.tally.resumed(session.times_resumed, session.times_begun_anew)

    async def _send(self, session: ClientSession, begun: asyncio.Event) -> None:
        box = pb.BoundingBox(**self.clip.box._asdict())
        first, others = pb.TargetCommand(initialize=box), pb.TargetCommand(ensure=box)
        async for number in paced(self.schedule, time.perf_counter, asyncio.sleep):
            # A server without room for the target refuses the first frames; it may have room soon.
            start = [others if number else first] if not begun.is_set() else []
            await session.send(number, self.clip.frame(number), start)
            self.tally.sent(self.schedule.due_at(number), time.perf_counter())

    async def _receive(self, session: ClientSession, begun: asyncio.Event) -> None:
        for _ in range(self.schedule.frame_count):
            result = await session.receive()
            if result.outcome == pb.FRAME_OUTCOME_PROCESSED:
                begun.set()
            self.tally.received(result, self.schedule.due_at(result.frame_number), time.perf_counter())
            self.progress.update()


def _status(group: ExceptionGroup[ClientError]) -> str:
    """The gRPC status of the first of a stream's errors; the other task meets the same end."""
    error: Exception = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error.code.name if isinstance(error, ClientError) else ""

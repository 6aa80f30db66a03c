"""`mixformer track --server`: the frames go to a running service."""

import argparse
import asyncio
import time
from collections.abc import Iterator
from typing import NamedTuple

import simplejpeg

from mixformer.tracking.v1 import tracking_pb2 as pb
from service.client import TrackingClient
from service.client_session import ClientSession
from service.commands.access import access_of
from service.commands.footage import open_footage
from service.commands.results import name_targets, record_of_result
from service.commands.track import FILE_LIMITS, TrackOutput
from service.decode import Payload, RawImage, decode

# One on the device and the next one decoded meanwhile is all that a session has use for; more would only wait in line.
FRAMES_IN_FLIGHT = 2
JPEG_QUALITY = 95


def run(arguments: argparse.Namespace) -> int:
    """Track the footage from the boxes given. The exit code; raises ClientError or CommandError."""
    return asyncio.run(_track(arguments))


async def _track(arguments: argparse.Namespace) -> int:
    footage = open_footage(arguments.source)
    options = pb.SessionOptions(update_interval_frames=arguments.update_interval, online_templates=arguments.online_size)
    async with TrackingClient(arguments.server, access_of(arguments)) as client:
        frames = _fitting(footage.frames, (await client.server_info()).max_frame_bytes)
        with TrackOutput(arguments, footage) as output:
            async with ClientSession(client, options, arguments.patience) as session:
                await Exchange(session, output, _commands(arguments)).run(frames)
            return output.finish()


class _Sent(NamedTuple):
    payload: Payload
    sent_at: float


class Exchange:
    """Sends the frames and takes their results, a few frames at a time."""

    def __init__(self, session: ClientSession, output: TrackOutput, commands: list[pb.TargetCommand]) -> None:
        """`commands` go with the first frame."""
        self._session = session
        self._output = output
        self._commands = commands
        self._room = asyncio.Semaphore(FRAMES_IN_FLIGHT)
        self._in_flight: asyncio.Queue[_Sent | None] = asyncio.Queue()

    async def run(self, frames: Iterator[Payload]) -> None:
        """Until every frame has its result. Raises ClientError, CommandError, or OSError where a file cannot be read or written."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._send(frames))
                tasks.create_task(self._receive())
        except ExceptionGroup as group:  # `except*` of early Python 3.11 would wrap again what is raised
            raise group.exceptions[0] from None

    async def _send(self, frames: Iterator[Payload]) -> None:
        number = 0
        while (payload := await asyncio.to_thread(next, frames, None)) is not None:
            await self._room.acquire()
            self._in_flight.put_nowait(_Sent(payload, time.perf_counter()))
            await self._session.send(number, payload, self._commands if number == 0 else [])
            number += 1
        self._in_flight.put_nowait(None)

    async def _receive(self) -> None:
        while (sent := await self._in_flight.get()) is not None:
            result = await self._session.receive()
            latency = time.perf_counter() - sent.sent_at
            self._room.release()
            await asyncio.to_thread(self._output.add, sent.payload, record_of_result(result), latency)


def _fitting(frames: Iterator[Payload], max_frame_bytes: int) -> Iterator[Payload]:
    """Raw frames that are over the server's limit as JPEG; all others as they are."""
    for payload in frames:
        if isinstance(payload, RawImage) and len(payload.data) > max_frame_bytes:
            yield simplejpeg.encode_jpeg(decode(payload, FILE_LIMITS), quality=JPEG_QUALITY)
        else:
            yield payload


def _commands(arguments: argparse.Namespace) -> list[pb.TargetCommand]:
    return [
        pb.TargetCommand(target_id=target_id, initialize=pb.BoundingBox(**box._asdict()))
        for target_id, box in name_targets(arguments.boxes).items()
    ]

"""The real processes of the service under a load that sends as fast as it is answered, and what they took for it."""

import asyncio
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import psutil

from mixformer.tracking.v1 import tracking_pb2 as pb
from service.client import TrackingClient
from service.client_session import ClientSession
from service.commands.clip import Clip
from service.config import ServeSettings
from service.cpu import usable_cores
from service.front.wire.times import seconds_of

ROUND_SECONDS = 2.0
WARM_UP_FRAMES = 3
# Frames that a camera sends before it waits for a result: as many as the service takes in.
FRAMES_AHEAD = 4


class Round(NamedTuple):
    """What one round of the service took; CPU seconds of the client and of the front, and seconds of decoding as its results say."""

    frames: int
    seconds: float
    client_cpu: float
    front_cpu: float
    decode: float

    @property
    def rate(self) -> float:
        """Frames per second, had the client not used the same cores."""
        return self.frames / (self.seconds - self.client_cpu / usable_cores())


@dataclass
class Load:
    """Cameras that send as fast as they are answered. `latencies` are seconds from a frame's sending to its result."""

    clip: Clip
    address: str
    front: psutil.Process
    frames_ahead: int = FRAMES_AHEAD
    frames: int = 0
    decode: float = 0.0
    is_over: bool = False
    latencies: list[float] = field(default_factory=list)

    async def run(self, sessions: int, seconds: float = ROUND_SECONDS, least: int = 0) -> Round:
        """One round of so many seconds and at least so many results, counted once there are some answers for each camera."""
        async with asyncio.TaskGroup() as cameras:
            for _ in range(sessions):
                cameras.create_task(self._camera())
            while self.frames < WARM_UP_FRAMES * sessions:
                await asyncio.sleep(0.01)
            self.latencies.clear()
            started, before = time.perf_counter(), self._now()
            await asyncio.sleep(seconds)
            while len(self.latencies) < least:
                await asyncio.sleep(0.01)
            took, after = time.perf_counter() - started, self._now()
            self.is_over = True
        return Round(
            after.frames - before.frames,
            took,
            after.client_cpu - before.client_cpu,
            after.front_cpu - before.front_cpu,
            after.decode - before.decode,
        )

    async def _camera(self) -> None:
        start = [pb.TargetCommand(initialize=pb.BoundingBox(**self.clip.box._asdict()))]
        sent = received = 0
        sent_at: deque[float] = deque()
        async with TrackingClient(self.address) as client, ClientSession(client, pb.SessionOptions(), 0) as stream:
            while not self.is_over or received < sent:
                while not self.is_over and sent < received + self.frames_ahead:
                    sent_at.append(time.perf_counter())
                    await stream.send(sent, self.clip.frame(sent), [] if sent else start)
                    sent += 1
                result = await stream.receive()
                if result.outcome != pb.FRAME_OUTCOME_PROCESSED:
                    raise RuntimeError(f"frame {result.frame_number} was not tracked, so nothing was measured: {result}")
                if not self.is_over:
                    self.latencies.append(time.perf_counter() - sent_at.popleft())
                received += 1
                self.frames += 1
                self.decode += seconds_of(result.timing.decode)

    def _now(self) -> Round:
        return Round(self.frames, 0.0, cpu_seconds(psutil.Process()), cpu_seconds(self.front), self.decode)


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


@contextmanager
def running_front(settings: ServeSettings, module: str = "service.front.frontend") -> Iterator[tuple[str, psutil.Process]]:
    """A front as the parent starts it, ready; gives its address and the process. Its worker must be running."""
    with running_child(module, settings) as front:
        assert front.stdout is not None
        word, _, address = front.stdout.readline().decode().strip().partition(" ")
        if word != "READY":
            raise RuntimeError("the front did not start")
        yield address, psutil.Process(front.pid)


@contextmanager
def running_child(module: str, settings: ServeSettings) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of the service with its settings on standard input."""
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ}
    command = [sys.executable, "-m", module]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as child:
        assert child.stdin is not None
        child.stdin.write(settings.to_json() + b"\n")
        child.stdin.flush()
        try:
            yield child
        finally:
            child.terminate()

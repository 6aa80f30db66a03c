"""`mixformer serve` as a whole: a worker that is killed costs its sessions a delay, and SIGTERM ends everything."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
from grpc import aio
from pictures import encoded, scene

from mixformer.tracking.v1 import tracking_pb2 as pb
from mixformer.tracking.v1.tracking_pb2_grpc import TrackingServiceStub

PATIENCE_SECONDS = 60
GOOD = encoded(scene())


class Served(NamedTuple):
    """A running parent and where its front listens."""

    parent: "subprocess.Popen[str]"
    address: str


@contextmanager
def served(weights: Path) -> Iterator[Served]:
    """The service as a user starts it."""
    ports = ["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
    command = [sys.executable, "-m", "service", "serve", *ports, "--weights", str(weights), "--threads", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stderr is not None
            address = next(line.split()[-1] for line in parent.stderr if "serving on" in line)
            yield Served(parent, address)
        finally:
            parent.kill()


def worker_of(parent: "subprocess.Popen[str]") -> psutil.Process:
    """The parent's present worker."""
    return next(each for each in psutil.Process(parent.pid).children() if "service.worker.worker" in each.cmdline())


async def test_sessions_go_on_when_their_worker_is_killed(tiny_weights: Path) -> None:
    with served(tiny_weights) as (parent, address):
        async with aio.insecure_channel(address) as channel:
            call = TrackingServiceStub(channel).TrackStream()
            await call.write(pb.TrackStreamRequest(config=pb.StreamConfig()))
            box = pb.BoundingBox(x=100, y=80, width=40, height=40)
            start = pb.TargetCommand(target_id="a", initialize=box)
            await call.write(pb.TrackStreamRequest(frame=pb.Frame(frame_number=0, encoded=GOOD), targets=[start]))
            worker_of(parent).send_signal(signal.SIGKILL)
            for number in range(1, 4):
                await call.write(pb.TrackStreamRequest(frame=pb.Frame(frame_number=number, encoded=GOOD)))
            await call.done_writing()
            async with asyncio.timeout(PATIENCE_SECONDS):
                events = [event async for event in call]
        results = [event.result for event in events[1:]]
        assert [(each.frame_number, each.outcome) for each in results] == [
            (number, pb.FRAME_OUTCOME_PROCESSED) for number in range(4)
        ]
        assert [each.target_id for each in results[-1].targets] == ["a"]
        parent.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(parent.wait, PATIENCE_SECONDS) == 0

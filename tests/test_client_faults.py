"""Clients that misbehave, against the real processes on a simulated device. After each of them nothing is left."""

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import grpc
import pytest
from cameras import BOX, FRAMES, PROCESSED, Camera, Tally, camera, counted, figure, initialize
from google.protobuf.duration_pb2 import Duration
from grpc import aio
from processes import PATIENCE_SECONDS, Served, served

from mixformer.tracking.v1 import tracking_pb2 as pb
from mixformer.tracking.v1.tracking_pb2_grpc import TrackingServiceStub

FLAGS = (
    "--device", "simulated", "--simulated-batch-ms", "2", "--simulated-item-ms", "0", "--keepalive-seconds", "3",
    "--max-under-way", "10000", "--log-level", "info",
)  # fmt: skip
IDLE = Duration(seconds=3)
SHORT = pb.SessionOptions(idle_timeout=IDLE)
# Many clients in one process take long from one frame to the next.
PATIENT = pb.SessionOptions(idle_timeout=Duration(seconds=30))
STORM = 100
CLIENTS = 500
# A client of its own process: one stream with a target, and then silence.
SILENT_CLIENT = """
import sys, time
import grpc
from cameras import FRAMES, initialize
from mixformer.tracking.v1 import tracking_pb2 as pb
from mixformer.tracking.v1.tracking_pb2_grpc import TrackingServiceStub
def requests():
    yield pb.TrackStreamRequest(config=pb.StreamConfig(session_id="silent"))
    yield pb.TrackStreamRequest(frame=pb.Frame(encoded=FRAMES[0]), targets=[initialize()])
    time.sleep(1000)
for event in TrackingServiceStub(grpc.insecure_channel(sys.argv[1])).TrackStream(requests()):
    print("event", flush=True)
"""


class Held(NamedTuple):
    """What the front's process has, and what its service counts."""

    descriptors: int
    threads: int
    tasks: float
    sessions: float
    streams: float
    slots: float

    def is_within(self, other: "Held") -> bool:
        """Whether nothing is more than in the other; gRPC's own threads come and go, and so do the tasks of the front's clocks."""
        most = other._replace(threads=other.threads + 4, tasks=other.tasks + 2)
        return all(mine <= its for mine, its in zip(self, most, strict=True))


ANYTHING = Held(*[10**6] * 6)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("faults"), *FLAGS) as started:
        asyncio.run(cancelled(started, 8))  # what is made once, for the first calls, is made
        yield started


@pytest.fixture(scope="module")
def quiet(running: Served) -> Held:
    """What is held while nobody calls."""
    return until_within(running, ANYTHING._replace(sessions=0, streams=0, slots=0))


@pytest.fixture(autouse=True)
def nothing_is_left(running: Served, quiet: Held) -> Iterator[None]:
    """Afterwards: no session, stream, slot, task, thread or descriptor more than before, and every frame is accounted for."""
    yield
    until_within(running, quiet)
    frames = counted(running.metrics)
    assert frames.is_balanced, frames
    assert "Traceback" not in running.log.read_text()


def held(running: Served) -> Held:
    front = running.front()
    names = ("front_tasks", "sessions_active", "streams_active", "slots_in_use")
    return Held(front.num_fds(), front.num_threads(), *(figure(running.metrics, name) for name in names))


def until_within(running: Served, most: Held) -> Held:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (now := held(running)).is_within(most):
        assert time.monotonic() < deadline, f"{now} is not within {most}"
        time.sleep(0.1)
    return now


@asynccontextmanager
async def connected(running: Served) -> AsyncIterator[aio.Channel]:
    """A connection of its own."""
    async with aio.insecure_channel(running.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield channel


@asynccontextmanager
async def filming(running: Served, options: pb.SessionOptions = SHORT) -> AsyncIterator[Camera]:
    """A stream with a target, on a connection of its own; every frame must get its result."""
    tally = Tally()
    async with connected(running) as channel, camera(channel, tally, options) as each:
        await each.track(initialize())
        yield each
        await each.end()
    assert tally.sent == tally.answered


async def cancelled(running: Served, streams: int) -> None:
    """Streams on one connection that are cancelled with frames under way."""

    async def one(channel: aio.Channel) -> None:
        async with camera(channel, Tally(), SHORT) as each:
            await each.track(initialize())
            for _ in range(3):
                await each.send()

    async with connected(running) as channel:
        await asyncio.gather(*(one(channel) for _ in range(streams)))


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_a_client_that_is_gone_or_stopped_without_a_word_is_found(running: Served, blow: signal.Signals) -> None:
    command = [sys.executable, "-c", SILENT_CLIENT, running.address]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as client:
        try:
            assert client.stdout is not None
            assert [client.stdout.readline() for _ in range(2)] == [b"event\n"] * 2
            until_within(running, ANYTHING._replace(streams=1))
            client.send_signal(blow)
            until_within(running, ANYTHING._replace(streams=0))
        finally:
            client.kill()
    with grpc.insecure_channel(running.address) as channel:
        TrackingServiceStub(channel).DeleteSession(pb.DeleteSessionRequest(session_id="silent"))


def test_connections_that_never_speak_are_closed(running: Served, quiet: Held) -> None:
    host, _, port = running.address.rpartition(":")
    silent = [socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS) for _ in range(20)]
    silent[0].sendall(b"PRI * HTTP/2.0\r\n\r\nSM")  # and some stop in the middle of a word
    for each in silent:
        while each.recv(1024):
            pass
        each.close()


async def test_a_slow_reader_holds_up_nobody_else_and_misses_nothing(running: Served) -> None:
    async with filming(running) as slow, filming(running) as other:
        sending = asyncio.create_task(send(slow, 200))
        for _ in range(20):
            await other.track()
        numbers = [(await slow.receive(0.0)).frame_number for _ in range(200)]
        await sending
        assert numbers == list(range(1, 201))


async def send(each: Camera, frames: int) -> None:
    for _ in range(frames):
        await each.send()


async def test_a_slow_sender_holds_up_nobody_else_and_ends_when_it_is_idle_for_too_long(running: Served) -> None:
    tally = Tally()
    async with connected(running) as channel, camera(channel, tally, SHORT) as slow:
        await slow.track(initialize())
        async with filming(running) as other:
            for _ in range(20):
                await other.track()
        assert await slow.code() is grpc.StatusCode.NOT_FOUND


async def test_storms_of_cancelled_streams_leave_nothing_and_take_no_memory(running: Served, quiet: Held) -> None:
    async def taken() -> int:
        """The front's memory in bytes after a storm, once its sessions have ended too: one that is still kept has its pictures."""
        await cancelled(running, STORM)
        await asyncio.to_thread(until_within, running, quiet)
        return running.front().memory_info().rss

    at_first = [await taken() for _ in range(3)]
    assert min([await taken() for _ in range(3)]) < 1.1 * max(at_first)


async def test_a_storm_of_deadlines_leaves_nothing(running: Served) -> None:
    async def one(channel: aio.Channel, number: int) -> grpc.StatusCode:
        request = pb.TrackRequest(
            session_id=f"late {number}", frame=pb.Frame(encoded=FRAMES[0]), targets=[pb.TargetCommand(ensure=BOX)], options=SHORT
        )  # fmt: skip
        try:
            await TrackingServiceStub(channel).Track(request, timeout=0.001 * (1 + number % 20))
        except aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    async with connected(running) as channel:
        codes = await asyncio.gather(*(one(channel, number) for number in range(2 * STORM)))
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED}
    assert grpc.StatusCode.DEADLINE_EXCEEDED in codes


async def test_a_storm_of_reconnecting_clients_is_served(running: Served) -> None:
    async def one() -> pb.FrameResult:
        while True:
            try:
                async with connected(running) as channel, camera(channel, Tally(), PATIENT) as each:
                    result = await each.track(initialize())
                    await each.track(pb.TargetCommand(remove=True))  # so that the session ends with its stream
                    return result
            except (ConnectionError, aio.AioRpcError):  # refused for the moment, as there are others: the client comes again
                await asyncio.sleep(random.uniform(0.0, 1.0))

    async with asyncio.timeout(2 * PATIENCE_SECONDS):
        results = await asyncio.gather(*(one() for _ in range(CLIENTS)))
    assert {each.outcome for each in results} == {PROCESSED}


async def test_a_session_that_is_opened_twice_belongs_to_the_second(running: Served) -> None:
    async with connected(running) as channel, camera(channel, Tally(), SHORT, "twice") as first:
        await first.track(initialize())
        async with camera(channel, Tally(), SHORT, "twice") as second:
            assert await first.code() is grpc.StatusCode.ABORTED
            assert [each.target_id for each in (await second.track()).targets] == [""]


async def test_replayed_and_reordered_frames_are_refused_where_order_was_asked_for(running: Served) -> None:
    strict = pb.SessionOptions(idle_timeout=IDLE, strict_order=True)
    async with filming(running, strict) as each:
        await each.track()
        each.number = 1
        assert (await each.track()).error.reason == "FRAME_OUT_OF_ORDER"
        assert (await each.track()).error.reason == ""


async def test_frames_after_the_last_target_was_removed_are_refused_and_it_may_begin_again(running: Served) -> None:
    async with filming(running) as each:
        await each.track(pb.TargetCommand(remove=True))
        assert (await each.track()).error.reason == "NO_TARGET"
        assert (await each.track(initialize())).error.reason == ""

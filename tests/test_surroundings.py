"""What the whole service does when what is around it fails: the store, the disk, the clock, a port."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from feed import OPTIONS, Feed, request
from google.protobuf.duration_pb2 import Duration
from grpc import aio
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from processes import PATIENCE_SECONDS, Served, free_port, served
from redis_server import redis_server

from mixformer.tracking.v1 import tracking_pb2 as pb
from mixformer.tracking.v1.tracking_pb2_grpc import TrackingServiceStub

SIMULATED = ("--device", "simulated", "--simulated-batch-ms", "2")


async def figure(running: Served, name: str) -> float:
    """One of the metrics."""
    lines = (await asyncio.to_thread(running.scrape)).splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"mixformer_{name} "))


async def until_over(running: Served, name: str, value: float) -> None:
    """Wait until one of the metrics is over a value."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await figure(running, name) <= value:
            await asyncio.sleep(0.05)


async def test_without_its_store_the_service_starts_serves_and_makes_up_for_it(tmp_path: Path) -> None:
    port = free_port()
    flags = ("--store", f"redis://127.0.0.1:{port}", "--store-interval-seconds", "0.1")
    with served(tmp_path, *SIMULATED, *flags) as running:
        async with aio.insecure_channel(running.address) as channel:
            feed = await Feed.open(channel, session_id="cam")
            await feed.track(0, 100)
            await until_over(running, "snapshots_failed_total", 0)
            with pytest.raises(aio.AioRpcError) as caught:
                await TrackingServiceStub(channel).Track(pb.TrackRequest(session_id="unknown", frame=request(1).frame))
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            with redis_server(tmp_path, port):
                await until_over(running, "snapshots_written_total", 0)
                await feed.track(101, 110)
            written = await figure(running, "snapshots_written_total")
            await feed.track(111, 200)
            assert await figure(running, "snapshots_written_total") == written, "it is gone again"


async def test_a_store_that_hangs_delays_no_frame_of_an_open_stream(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis:
        # Every write would take a minute to fail: longer than any frame is waited for here.
        flags = ("--store", redis.url, "--store-interval-frames", "1", "--store-timeout-seconds", "60")
        with served(tmp_path, *SIMULATED, *flags) as running:
            async with aio.insecure_channel(running.address) as channel:
                feed = await Feed.open(channel, options=OPTIONS)
                await feed.track(0, 5)
                await until_over(running, "snapshots_written_total", 0)
                with redis.hanging():
                    written = await figure(running, "snapshots_written_total")
                    await feed.track(6, 150)
                    assert await figure(running, "snapshots_written_total") <= written + 1
                await until_over(running, "snapshots_written_total", written)


def command(port: int, metrics: str = "127.0.0.1:0") -> list[str]:
    """The service by its command line alone: nothing that it writes is read."""
    ports = ["--listen", f"127.0.0.1:{port}", "--metrics", metrics]
    return [sys.executable, "-m", "service", "serve", *ports, *SIMULATED, "--log-level", "debug"]


@pytest.fixture
def unlogged() -> Iterator["tuple[int, subprocess.Popen[bytes]]"]:
    """A service, and its port, whose every word to its log fails for want of room."""
    port = free_port()
    # Without a buffer nothing is left to be written at its end.
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with (
        Path("/dev/full").open("wb") as full,
        subprocess.Popen(command(port), stdout=full, stderr=full, env=buffered) as parent,
    ):
        yield port, parent
        parent.kill()


async def test_a_full_disk_under_its_log_costs_the_log_and_nothing_else(
    unlogged: "tuple[int, subprocess.Popen[bytes]]",
) -> None:
    port, parent = unlogged
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await until_serving(channel, parent)
        feed = await Feed.open(channel)
        await feed.track(0, 20)
        parent.send_signal(signal.SIGTERM)
        assert await feed.end() is grpc.StatusCode.UNAVAILABLE
    assert await asyncio.to_thread(parent.wait, PATIENCE_SECONDS) == 0


async def until_serving(channel: aio.Channel, parent: "subprocess.Popen[bytes]") -> None:
    check = HealthStub(channel).Check  # type: ignore[attr-defined]  # the published stubs leave the methods out
    while parent.poll() is None:
        try:
            answer = await check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=PATIENCE_SECONDS)
        except aio.AioRpcError:
            continue
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"the service ended with status {parent.wait()}")


def test_a_folder_that_cannot_take_its_socket_stops_the_start() -> None:
    full = [*command(0), "--run-dir", "/dev/full"]
    done = subprocess.run(full, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert done.returncode == 2
    assert "run_dir='/dev/full' cannot be used" in done.stderr


@pytest.mark.parametrize("fronts", ["1", "2"])
def test_a_taken_metrics_port_stops_the_whole_service(fronts: str) -> None:
    with socket.socket() as rival:
        rival.bind(("127.0.0.1", 0))
        rival.listen()
        taken = f"127.0.0.1:{rival.getsockname()[1]}"
        start = [*command(0, taken), "--fronts", fronts]
        done = subprocess.run(start, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert done.returncode == 1
    assert f"metrics={taken}: the port cannot be opened" in done.stderr
    assert "Traceback" not in done.stderr


# Python runs this first in every process of the service: from when the file is there, the time of day is another one.
STEPPED = """
import os, time
real, path = time.time, os.environ["CLOCK_STEP"]
time.time = lambda: real() + (float(open(path).read()) if os.path.exists(path) else 0.0)
"""


class Stepped(NamedTuple):
    """A service, and the file with the seconds by which its clock is off."""

    running: Served
    step: Path


@pytest.fixture(scope="module")
def stepped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stepped]:
    folder = tmp_path_factory.mktemp("stepped")
    (folder / "sitecustomize.py").write_text(STEPPED)
    (folder / "keys").write_text(f"one {'1f' * 32}\n")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        environment.setenv("CLOCK_STEP", str(folder / "step"))
        with served(folder, *SIMULATED, "--token-keys", str(folder / "keys")) as running:
            yield Stepped(running, folder / "step")


async def test_a_clock_that_is_stepped_ends_no_session_and_no_token(stepped: Stepped) -> None:
    async with aio.insecure_channel(stepped.running.address) as channel:
        stub = TrackingServiceStub(channel)
        feed = await Feed.open(channel, session_id="lives on", options=OPTIONS)
        await feed.track(0, 5)
        for hours in (24, -24):
            await begin(stub, "ends", idle_timeout=Duration(nanos=500_000_000))
            stepped.step.write_text(str(hours * 3600))
            # Sessions are timed by a clock that is never stepped: the short one ends when it is due, the other stays.
            async with asyncio.timeout(PATIENCE_SECONDS):
                while len(shown := (await stub.ListSessions(pb.ListSessionsRequest())).sessions) > 1:
                    await asyncio.sleep(0.05)
            assert [session.session_id for session in shown] == ["lives on"]
            assert abs(shown[0].expire_time.seconds - time.time() - hours * 3600 - 300) < 60, "clients see the new time"
            assert feed.token is not None
            feed = await Feed.open(channel, resume_token=feed.token.token)
            last = feed.session.last_frame_number
            await feed.track(last + 1, last + 8)
        await stub.DeleteSession(pb.DeleteSessionRequest(session_id="lives on"))


async def test_a_clock_that_is_ahead_makes_frames_too_old_where_an_age_was_asked_for(stepped: Stepped) -> None:
    async with aio.insecure_channel(stepped.running.address) as channel:
        stub = TrackingServiceStub(channel)
        stepped.step.write_text("0")
        await begin(stub, "cam", max_frame_age=Duration(seconds=60))
        sent = request(1)
        sent.frame.capture_time.GetCurrentTime()
        outcomes = []
        for hours in (0, 24, -24):
            stepped.step.write_text(str(hours * 3600))
            outcomes.append((await stub.Track(pb.TrackRequest(session_id="cam", frame=sent.frame))).result.outcome)
    assert outcomes == [pb.FRAME_OUTCOME_PROCESSED, pb.FRAME_OUTCOME_DROPPED, pb.FRAME_OUTCOME_PROCESSED]


async def begin(stub: Any, session_id: str, **options: Duration) -> None:
    """A session of its own with one target."""
    first = request(0)
    asked = pb.SessionOptions(**options)  # type: ignore[arg-type]
    await stub.Track(pb.TrackRequest(session_id=session_id, frame=first.frame, targets=first.targets, options=asked))

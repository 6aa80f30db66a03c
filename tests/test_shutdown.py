"""SIGTERM to the whole service under load: everybody is told, nothing in hand is lost, and what comes next can go on."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from feed import Feed
from grpc import aio
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from processes import PATIENCE_SECONDS, Served, served
from redis_server import RedisServer, redis_server

STREAMS = 4
# Long enough for frames to be in hand when the signal comes.
SLOW = ("--device", "simulated", "--simulated-batch-ms", "500")


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"one {'1f' * 32}\n")
    return path


@asynccontextmanager
async def opened(address: str) -> AsyncIterator[tuple[list[Feed], Any]]:
    """Streams with a target each, and the service's health."""
    async with aio.insecure_channel(address) as channel:
        feeds = [await Feed.open(channel, session_id=f"camera {number}") for number in range(STREAMS)]
        await asyncio.gather(*(feed.track(0, 1) for feed in feeds))
        health: Any = HealthStub(channel)
        yield feeds, health.Watch(health_pb2.HealthCheckRequest())


async def not_serving(states: Any) -> bool:
    """Whether health says so in time."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for state in states:
            if state.status == health_pb2.HealthCheckResponse.NOT_SERVING:
                return True
    return False


async def until_decoded(running: Served, frames: int) -> None:
    """Wait until so many frames are in the server's hands."""
    sample = f"mixformer_decode_latency_seconds_count {frames:.1f}"
    async with asyncio.timeout(PATIENCE_SECONDS):
        while sample not in (await asyncio.to_thread(running.scrape)).splitlines():
            await asyncio.sleep(0.02)


async def status_of(running: Served) -> int:
    return await asyncio.to_thread(running.parent.wait, PATIENCE_SECONDS)


async def test_sigterm_tells_every_stream_answers_what_is_in_hand_and_gives_a_last_token(
    redis: RedisServer, keys: Path, tmp_path: Path
) -> None:
    kept = ("--token-keys", str(keys), "--store", redis.url, "--store-interval-seconds", "3600")
    flags = (*SLOW, *kept, "--grace-seconds", "30")
    (tmp_path / "next").mkdir()
    with served(tmp_path, *flags) as running:
        async with opened(running.address) as (feeds, states):
            await asyncio.gather(*(feed.send(2, 3) for feed in feeds))
            await until_decoded(running, 4 * STREAMS)
            running.parent.send_signal(signal.SIGTERM)
            ends = await asyncio.gather(not_serving(states), *(feed.end() for feed in feeds))
            assert ends == [True, *[grpc.StatusCode.UNAVAILABLE] * STREAMS]
        assert await status_of(running) == 0
    for feed in feeds:
        assert feed.draining is not None and feed.draining.deadline.seconds == 30
        assert sorted(feed.boxes) == [0, 1, 2, 3], "what was in hand has its result"
        assert feed.token is not None and feed.token.last_frame_number == 3
    with served(tmp_path / "next", *flags) as after:
        async with aio.insecure_channel(after.address) as channel:
            by_token = await Feed.open(channel, resume_token=(feeds[0].token or pytest.fail()).token)
            by_id = await Feed.open(channel, session_id="camera 1")
            assert by_token.session.last_frame_number == 3
            assert by_id.session.last_frame_number == 3, "the snapshot was written at the end"


async def test_a_store_that_hangs_does_not_hold_up_the_end(redis: RedisServer, tmp_path: Path) -> None:
    with served(tmp_path, *SLOW, "--store", redis.url, "--grace-seconds", "2") as running:
        async with opened(running.address) as (feeds, _):
            with redis.hanging():
                await asyncio.gather(*(feed.send(2) for feed in feeds))
                await until_decoded(running, 3 * STREAMS)
                running.parent.send_signal(signal.SIGTERM)
                assert await asyncio.gather(*(feed.end() for feed in feeds)) == [grpc.StatusCode.UNAVAILABLE] * STREAMS
                assert await status_of(running) == 0
        assert f"{STREAMS} sessions could not be written" in running.log.read_text()


async def test_a_second_signal_ends_the_service_at_once(tmp_path: Path) -> None:
    slowest = (
        "--device",
        "simulated",
        "--simulated-batch-ms",
        "60000",
        "--grace-seconds",
        "3600",
        "--worker-timeout-seconds",
        "3600",
    )
    with served(tmp_path, *slowest) as running:
        async with aio.insecure_channel(running.address) as channel:
            feed = await Feed.open(channel)
            await feed.send(0, 1)
            while 0 not in feed.boxes:
                await feed.read()
            running.parent.send_signal(signal.SIGTERM)
            while feed.draining is None:
                await feed.read()
            running.parent.send_signal(signal.SIGTERM)
            assert await status_of(running) == 128 + signal.SIGTERM
            assert await feed.end() is grpc.StatusCode.UNAVAILABLE

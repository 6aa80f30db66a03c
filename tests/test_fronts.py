"""`mixformer serve --fronts 2 --workers 2` on the CPU: what adds up, what dies alone, and what comes back."""

import asyncio
import contextlib
import socket
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from pictures import encoded, scene
from processes import PATIENCE_SECONDS, Served, free_port, served
from prometheus_client.parser import text_string_to_metric_families

from mixformer.tracking.v1 import tracking_pb2 as pb
from service.client import ClientError, TrackingClient, TrackingStream, to_frame

FRAMES = [encoded(scene(seed=seed)) for seed in range(3)]
PROCESSED, SESSIONS = 'frames_total{"outcome": "processed"}', "sessions_active"


def consecutive_ports() -> int:
    """The first of two ports that nobody has at the moment."""
    while True:
        port = free_port()
        with contextlib.suppress(OSError), socket.socket() as following:
            following.bind(("127.0.0.1", port + 1))
            return port


@pytest.fixture(scope="module")
def port() -> int:
    return consecutive_ports()


@pytest.fixture(scope="module")
def running(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[Served]:
    flags = ("--fronts", "2", "--workers", "2", "--device", "cpu", "--weights", str(tiny_weights))
    with served(tmp_path_factory.mktemp("fronts"), *flags, "--listen", f"127.0.0.1:{port}") as started:
        started.wait_for(r"(?s)(worker \d+ runs .*){4}")  # each front knows each worker
        yield started


@contextlib.asynccontextmanager
async def camera(port: int) -> AsyncIterator[TrackingStream]:
    """A stream to the front on this port, once it serves."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            with contextlib.suppress(ClientError):
                async with TrackingClient(f"127.0.0.1:{port}") as client:
                    await client.server_info()
                    break
            await asyncio.sleep(0.1)
    async with TrackingClient(f"127.0.0.1:{port}") as client:
        stream = await client.open_stream(pb.StreamConfig())
        yield stream
        stream.close()
        await client.delete_session(stream.session.session_id)


async def boxes(stream: TrackingStream, first: int = 0, x: float = 100.0) -> list[float]:
    """Of a target that is followed over all frames, one after the other."""
    start = [pb.TargetCommand(initialize=pb.BoundingBox(x=x, y=80, width=40, height=40))]
    found: list[float] = []
    for number, frame in enumerate(FRAMES):
        commands = start if number == 0 else []
        await stream.send(pb.TrackStreamRequest(frame=to_frame(first + number, frame), targets=commands))
        async with asyncio.timeout(PATIENCE_SECONDS):
            result = (await stream.receive()).result
        assert result.outcome == pb.FRAME_OUTCOME_PROCESSED, result
        (target,) = result.targets
        found += [target.box.x, target.box.y, target.box.width, target.box.height]
    return found


def scrape(running: Served) -> dict[str, float]:
    """Every sample of the one endpoint, without the prefix."""
    with urllib.request.urlopen(running.metrics, timeout=5) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return {
        sample.name.removeprefix("mixformer_") + str(dict(sorted(sample.labels.items())) or "").replace("'", '"'): sample.value
        for family in families
        for sample in family.samples
    }


async def until(running: Served, condition: Callable[[dict[str, float]], bool]) -> dict[str, float]:
    """The first scrape for which this holds."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition(samples := await asyncio.to_thread(scrape, running)):
            await asyncio.sleep(0.1)
    return samples


async def test_both_fronts_serve_both_workers_and_their_figures_add_up(running: Served, port: int) -> None:
    async with camera(port) as first, camera(port + 1) as second, camera(port + 1) as third:
        alone = await boxes(first)
        for other in (second, third):
            assert await boxes(other) == pytest.approx(alone, abs=0.05)
        samples = await until(running, lambda found: found[SESSIONS] == 3)
        assert (samples[PROCESSED], samples["frame_latency_seconds_count"]) == (9, 9)
        # Every front hears of every step, and one counts them. A target's first frame needs no device.
        assert samples["batch_size_sum"] == 6
        assert [samples[f'worker_up{{"worker": "{number}"}}'] for number in range(2)] == [1, 1]
        # The second front spread its two sessions.
        await until(running, lambda found: all(found[f'slots_in_use{{"worker": "{number}"}}'] > 0 for number in range(2)))
    await until(running, lambda found: found[SESSIONS] == 0)


async def test_a_dead_worker_moves_its_own_sessions_and_they_come_back(running: Served, port: int) -> None:
    async with camera(port) as first, camera(port) as second:
        # Apart from each other, so that no memory is shared.
        places = {first: 100.0, second: 60.0}
        undisturbed = {stream: await boxes(stream, 0, x) for stream, x in places.items()}
        running.worker(0).kill()
        for stream, x in places.items():
            assert await boxes(stream, 10, x) == pytest.approx(undisturbed[stream], abs=0.05)
        await until(running, lambda found: found['worker_restarts_total{"worker": "0"}'] == 1)
        for stream, x in places.items():
            assert await boxes(stream, 20, x) == pytest.approx(undisturbed[stream], abs=0.05)
        samples = await until(running, lambda found: found['slots_in_use{"worker": "0"}'] == 1)
        assert samples['worker_restarts_total{"worker": "1"}'] == 0


async def test_a_dead_front_takes_its_sessions_along_and_nothing_else(running: Served, port: int) -> None:
    async with camera(port) as staying:
        with pytest.raises(ClientError):
            async with camera(port + 1) as lost:
                await boxes(lost)
                before = await until(running, lambda found: found[SESSIONS] == 2)
                running.front(1).kill()
                await boxes(lost, 10)
        after = await until(running, lambda found: found[SESSIONS] == 1)
        assert after[PROCESSED] >= before[PROCESSED], "what was counted stays counted"
        await boxes(staying)
        async with camera(port + 1) as again:
            await boxes(again)
            samples = await until(running, lambda found: found[SESSIONS] == 2)
            assert samples[PROCESSED] == after[PROCESSED] + 6

"""Strangers of the same user at the socket of a living worker: each is hung up on, and the cameras notice nothing."""

import asyncio
import math
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import psutil
from cameras import PROCESSED, Tally, camera, figure, initialize
from fake_front import CONFIG
from fuzz.links import MESSAGES
from grpc import aio
from processes import PATIENCE_SECONDS, Served, served

from mixformer.tracking.v1 import tracking_pb2 as pb
from service.messages import MAX_MESSAGE_BYTES, Cancel, Ping, Release, TrackItem, encode

FLAGS = ("--device", "simulated", "--simulated-batch-ms", "1", "--simulated-item-ms", "0")
FRAMES, STRANGERS = 12, 60

Boxes = list[tuple[float, float, float, float]]


def words() -> Iterator[bytes]:
    """What strangers say: nothing, noise, lengths without a message, damaged messages, and good ones that make no sense."""
    chance = Random(5)
    yield from (
        b"",
        chance.randbytes(5000),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 4,
        MAX_MESSAGE_BYTES.to_bytes(4, "big") + b"\x00",
    )
    search, template = (bytes(3 * side**2) for side in (CONFIG.search_size, CONFIG.template_size))
    for arrived_at in (math.nan, math.inf, -math.inf, 0.0):
        item = TrackItem(1, "", b"k" * 16, search, (template,) * 2, arrived_at, False, arrived_at)
        yield b"".join(map(encode, (Release(b""), item, item, Cancel(1), Cancel(2**60), Ping(-1), Release(b"k" * 16))))
    yield from (MESSAGES.draw(Random(seed)) for seed in range(STRANGERS))


def intrude(path: Path) -> None:
    """Strangers one after another: each speaks, and is hung up on or ends and is let go. Blocks."""
    for each in words():
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.settimeout(PATIENCE_SECONDS)
            stranger.connect(str(path))
            try:
                stranger.sendall(each)
                stranger.shutdown(socket.SHUT_WR)
                while stranger.recv(65536):
                    pass
            except (BrokenPipeError, ConnectionResetError):  # hung up on before it had finished
                pass


async def film(channel: aio.Channel) -> Boxes:
    """The boxes of one session from its start to its end; every frame must be processed."""
    async with camera(channel, Tally(), pb.SessionOptions()) as each:
        results = [await each.track(*([] if number else [initialize()])) for number in range(FRAMES)]
        await each.track(pb.TargetCommand(remove=True))
        await each.end()
    assert {result.outcome for result in results} == {PROCESSED}
    boxes = (result.targets[0].box for result in results)
    return [(box.x, box.y, box.width, box.height) for box in boxes]


def wait_until_as_before(running: Served, worker: psutil.Process, descriptors: int, threads: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while worker.num_fds() > descriptors or worker.num_threads() > threads or figure(running.metrics, "slots_in_use"):
        assert time.monotonic() < deadline, f"{worker.num_fds()} descriptors, {worker.num_threads()} threads"
        time.sleep(0.1)


async def test_strangers_at_the_socket_are_hung_up_on_and_the_cameras_see_the_same_boxes(tmp_path: Path) -> None:
    with served(tmp_path, *FLAGS, "--run-dir", str(tmp_path)) as running, socket.socket(socket.AF_UNIX) as silent:
        (path,) = tmp_path.glob("*/worker.sock")
        async with aio.insecure_channel(running.address) as channel:
            alone = await film(channel)
            worker = running.worker()
            descriptors, threads = worker.num_fds(), worker.num_threads()
            silent.connect(str(path))
            silent.sendall(MAX_MESSAGE_BYTES.to_bytes(4, "big"))  # and its message never comes
            intruding = asyncio.create_task(asyncio.to_thread(intrude, path))
            seen = [await film(channel)]
            while not intruding.done():
                seen.append(await film(channel))
            await intruding
        assert all(each == alone for each in seen)
        assert worker.num_threads() > threads, "the silent one is still connected"
        silent.close()
        wait_until_as_before(running, worker, descriptors, threads)
        assert running.worker() == worker
        assert "Traceback" not in running.log.read_text()

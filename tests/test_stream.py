"""A stream against a writer and a reader of the test's own."""

import asyncio
import gc
from typing import Any

import pytest
from fake_calls import START
from fake_front import GOOD, PROCESSED, bench, until

from mixformer.tracking.v1 import tracking_pb2 as pb
from service.config import Limits
from service.front.calls import stream as stream_module
from service.front.calls.stream import Stream


async def test_a_write_that_fails_after_its_stream_was_cancelled_is_not_reported_as_forgotten() -> None:
    given = bench()
    writing, gone, reported = asyncio.Event(), asyncio.Event(), list[Any]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    async def send(_: pb.TrackStreamResponse) -> None:
        writing.set()
        await gone.wait()
        raise ConnectionError("the client has gone")

    async def read() -> None:
        return None

    stream = Stream(given.session(), given.front, read, send)
    running = asyncio.create_task(stream.run())
    await writing.wait()
    running.cancel()
    await asyncio.sleep(0)
    gone.set()
    await until(running.done)
    assert running.cancelled()
    del running, stream  # whose traceback knows the write
    gc.collect()
    assert reported == []


async def test_a_client_that_does_not_take_its_results_keeps_no_picture_and_misses_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream_module, "_HELD_SECONDS", 0.0)
    # Room for four frames at once, and for no part of a fifth.
    given = bench(Limits(max_client_frames_per_second=3.5))
    free, taken, numbers = given.pool.free_bytes, asyncio.Event(), list[int]()
    requests = asyncio.Queue[pb.TrackStreamRequest | None]()
    for number in range(4):
        commands = [] if number else [START]
        requests.put_nowait(pb.TrackStreamRequest(frame=pb.Frame(frame_number=number, encoded=GOOD), targets=commands))
    requests.put_nowait(None)

    async def send(event: pb.TrackStreamResponse) -> None:
        if event.HasField("result"):
            numbers.append(event.result.frame_number)
            assert event.result.outcome == PROCESSED
            if numbers[-1] == 1:
                await taken.wait()

    given.engine.gate.clear()
    running = asyncio.create_task(Stream(given.session(), given.front, requests.get, send).run())
    await until(lambda: given.engine.waiting == 1 and given.pool.free_bytes == free - 2 * 3 * 320 * 240)
    given.engine.gate.set()
    await until(lambda: numbers == [0, 1] and given.pool.free_bytes == free)
    taken.set()
    await running
    assert numbers == [0, 1, 2, 3]

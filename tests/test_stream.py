"""A stream against a writer and a reader of the test's own."""

import asyncio
import gc
from typing import Any

from fake_front import bench, until

from mixformer.tracking.v1 import tracking_pb2 as pb
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
    running = asyncio.create_task(stream.run(pb.TrackStreamRequest()))
    await writing.wait()
    running.cancel()
    await asyncio.sleep(0)
    gone.set()
    await until(running.done)
    assert running.cancelled()
    del running, stream  # whose traceback knows the write
    gc.collect()
    assert reported == []

"""A session that outlives its server: two whole services with the real network, and a real Redis between them."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import grpc
import psutil
import pytest
import pytest_asyncio
from feed import FRAMES, OPTIONS, Feed, clip
from grpc import aio
from processes import PATIENCE_SECONDS, Served, served
from redis_server import RedisServer, redis_server

from mixformer.tracking.v1 import tracking_pb2 as pb
from mixformer.tracking.v1.tracking_pb2_grpc import TrackingServiceStub

CLOSE_PIXELS = 0.05
SNAPSHOT_FRAMES = 3

# One loop for the module: what the first test left open is what the next one goes on from.
pytestmark = pytest.mark.asyncio(loop_scope="module")


class Pair(NamedTuple):
    """Two services that share keys and a store."""

    first: Served
    second: Served
    redis: RedisServer


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    keys = folder / "keys"
    keys.write_text(f"one {'1f' * 32}\n")
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(folder))
        flags = ["--precision", "float32", "--token-keys", str(keys), "--store", redis.url, "--store-interval-seconds", "3600"]
        flags += ["--store-interval-frames", str(SNAPSHOT_FRAMES)]
        services = []
        for name in ("first", "second"):
            (folder / name).mkdir()
            services.append(stack.enter_context(served(folder / name, *flags)))
        yield Pair(services[0], services[1], redis)


class Channels(NamedTuple):
    first: aio.Channel
    second: aio.Channel


@pytest_asyncio.fixture(loop_scope="module")
async def channels(pair: Pair) -> AsyncIterator[Channels]:
    async with aio.insecure_channel(pair.first.address) as first, aio.insecure_channel(pair.second.address) as second:
        yield Channels(first, second)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def undisturbed(pair: Pair) -> dict[int, tuple[float, ...]]:
    """The boxes of the clip in one stream."""
    async with aio.insecure_channel(pair.second.address) as channel:
        feed = await Feed.open(channel, options=OPTIONS)
        await feed.track(0, FRAMES - 1)
        await feed.call.done_writing()
        return feed.boxes


def is_close(boxes: dict[int, tuple[float, ...]], wanted: dict[int, tuple[float, ...]]) -> bool:
    """Whether all boxes are within a twentieth of a pixel of what they should be."""
    return all(box == pytest.approx(wanted[number], abs=CLOSE_PIXELS) for number, box in boxes.items())


async def test_a_stream_with_a_token_goes_on_at_another_server_with_the_same_boxes(
    channels: Channels, undisturbed: dict[int, tuple[float, ...]]
) -> None:
    before = await Feed.open(channels.first, session_id="by token", options=OPTIONS)
    await before.track(0, 6)
    token = before.token
    before.call.cancel()
    assert token is not None and token.last_frame_number > 0
    after = await Feed.open(channels.second, resume_token=token.token)
    assert (after.session.session_id, after.session.last_frame_number) == ("by token", token.last_frame_number)
    await after.track(token.last_frame_number + 1, FRAMES - 1)
    assert is_close(after.boxes, undisturbed)


async def test_of_two_servers_that_hold_a_session_the_former_loses_it_at_its_next_write(channels: Channels) -> None:
    former = await Feed.open(channels.first, session_id="held twice")
    await former.track(0, 2 * SNAPSHOT_FRAMES)
    later = await Feed.open(channels.second, session_id="held twice")
    assert later.session.epoch > former.session.epoch
    await later.track(2 * SNAPSHOT_FRAMES + 1, 3 * SNAPSHOT_FRAMES)
    for number in range(100, 100 + FRAMES):
        await former.send(number)
    assert await former.end() is grpc.StatusCode.ABORTED
    assert "taken over by another server" in await former.call.details()
    await later.track(3 * SNAPSHOT_FRAMES + 1, 4 * SNAPSHOT_FRAMES)


async def test_single_frames_go_on_from_the_store(channels: Channels, undisturbed: dict[int, tuple[float, ...]]) -> None:
    frames, box = clip()
    first, second = (TrackingServiceStub(channel) for channel in channels)
    moves_after = 2 * SNAPSHOT_FRAMES - 1
    for number in range(FRAMES):
        stub = first if number <= moves_after else second
        sent = pb.TrackRequest(session_id="single", frame=pb.Frame(frame_number=number, encoded=frames[number]))
        if number == 0:
            sent.targets.append(pb.TargetCommand(initialize=box))
            sent.options.CopyFrom(OPTIONS)
        answer = await stub.Track(sent)
        found = answer.result.targets[0].box
        assert is_close({number: (found.x, found.y, found.width, found.height)}, undisturbed)
        if number == moves_after:
            await until_stored(second, "single", number)


async def until_stored(stub: Any, session_id: str, number: int) -> None:
    """Wait until a server that does not have the session sees it as it was after this frame."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                seen = (await stub.GetSession(pb.GetSessionRequest(session_id=session_id))).session
            except aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.NOT_FOUND
            else:
                if seen.last_frame_number >= number:
                    return
            await asyncio.sleep(0.02)


async def test_a_deleted_session_is_gone_from_every_server(channels: Channels) -> None:
    feed = await Feed.open(channels.first, session_id="deleted")
    await feed.track(0, SNAPSHOT_FRAMES)
    other = TrackingServiceStub(channels.second)
    await until_stored(other, "deleted", SNAPSHOT_FRAMES - 1)
    await other.DeleteSession(pb.DeleteSessionRequest(session_id="deleted"))
    await feed.send(*range(100, 100 + SNAPSHOT_FRAMES))
    assert await feed.end() is grpc.StatusCode.ABORTED
    with pytest.raises(aio.AioRpcError) as caught:
        await other.GetSession(pb.GetSessionRequest(session_id="deleted"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_sessions_go_on_by_their_id_after_the_whole_service_was_killed(
    pair: Pair, channels: Channels, undisturbed: dict[int, tuple[float, ...]]
) -> None:
    feeds = [await Feed.open(channels.first, session_id=f"killed {number}", options=OPTIONS) for number in range(2)]
    last = 8
    for feed in feeds:
        await feed.track(0, last)
    info = await TrackingServiceStub(channels.second).GetServerInfo(pb.GetServerInfoRequest())
    kill(pair.first)
    for feed in feeds:
        assert await feed.end() is grpc.StatusCode.UNAVAILABLE
        again = await Feed.open(channels.second, session_id=feed.session.session_id)
        left_at = again.session.last_frame_number
        # One write may be under way.
        assert last - left_at <= 2 * info.snapshot_interval_frames == 2 * SNAPSHOT_FRAMES
        await again.track(left_at + 1, FRAMES - 1)
        assert is_close(again.boxes, undisturbed)


def kill(service: Served) -> None:
    """SIGKILL to every process at once."""
    parent = psutil.Process(service.parent.pid)
    for process in [parent, *parent.children(recursive=True)]:
        process.kill()
    service.parent.wait(PATIENCE_SECONDS)

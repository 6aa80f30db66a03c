"""The client's connection and one stream, against a service that answers, refuses, and goes away."""

import asyncio
from contextlib import AsyncExitStack

import grpc
import pytest
from fake_service import FakeService, listening

from mixformer.tracking.v1 import tracking_pb2 as pb
from service.client import ClientError, TrackingClient, TrackingStream, to_frame
from service.decode import PixelFormat, RawImage

CONFIG = pb.StreamConfig(session_id="camera-1")


async def exchanged(stream: TrackingStream, number: int) -> pb.FrameResult:
    """The result of one frame."""
    await stream.send(pb.TrackStreamRequest(frame=to_frame(number, b"picture")))
    return (await stream.receive()).result


async def test_a_stream_gives_its_session_and_a_result_a_frame() -> None:
    with listening(FakeService()) as server:
        async with TrackingClient(server) as client:
            stream = await client.open_stream(CONFIG)
            assert stream.session.session_id == "camera-1"
            assert [(await exchanged(stream, number)).frame_number for number in range(3)] == [0, 1, 2]


async def test_a_stream_that_the_server_ends_names_server_and_status_on_both_sides() -> None:
    with listening(FakeService(fails_at=1)) as server:
        async with TrackingClient(server) as client:
            stream = await client.open_stream(CONFIG)
            await exchanged(stream, 0)
            for _ in range(2):
                with pytest.raises(ClientError, match=f"{server}: UNAVAILABLE: draining"):
                    await exchanged(stream, 1)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.CANCELLED])
async def test_who_only_sends_gets_the_servers_status_and_may_still_read_what_came_before(code: grpc.StatusCode) -> None:
    service = FakeService(fails_at=2)
    service.failure = code
    with listening(service) as server:
        async with TrackingClient(server) as client:
            for _ in range(20):
                stream = await client.open_stream(CONFIG)
                with pytest.raises(ClientError, match=f"{server}: {code.name}: draining"):
                    for number in range(100_000):
                        await stream.send(pb.TrackStreamRequest(frame=to_frame(number, b"picture")))
                assert [(await stream.receive()).result.frame_number for _ in range(2)] == [0, 1]
                with pytest.raises(ClientError, match=f"{server}: {code.name}: draining"):
                    await stream.receive()


async def test_a_server_that_is_killed_is_an_error_and_no_cancellation_of_ours() -> None:
    async with AsyncExitStack() as clients:
        with listening(FakeService()) as server:
            client = await clients.enter_async_context(TrackingClient(server))
            stream = await client.open_stream(CONFIG)
        with pytest.raises(ClientError, match=server):
            await stream.receive()


async def test_cancelling_who_waits_for_a_result_is_a_cancellation() -> None:
    with listening(FakeService()) as server:
        async with TrackingClient(server) as client:
            stream = await client.open_stream(CONFIG)
            waiting = asyncio.create_task(stream.receive())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting


async def test_a_server_that_is_not_there_is_an_error_with_its_address() -> None:
    with listening(FakeService()) as server:
        pass
    async with TrackingClient(server) as client:
        with pytest.raises(ClientError, match=f"{server}: UNAVAILABLE"):
            await client.server_info()
        with pytest.raises(ClientError, match=f"{server}: UNAVAILABLE") as caught:
            await client.open_stream(CONFIG)
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE


def test_raw_pixels_go_with_their_size_and_format() -> None:
    frame = to_frame(4, RawImage(b"\x01" * 12, 2, 2, PixelFormat.BGR24))
    assert frame == pb.Frame(
        frame_number=4, raw=pb.RawImage(data=b"\x01" * 12, width=2, height=2, pixel_format=pb.PIXEL_FORMAT_BGR24)
    )


def test_encoded_pictures_go_as_they_are() -> None:
    assert to_frame(5, b"\xff\xd8\xff") == pb.Frame(frame_number=5, encoded=b"\xff\xd8\xff")

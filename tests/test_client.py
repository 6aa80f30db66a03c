"""The client against a service that answers, refuses, and goes away."""

import asyncio
from contextlib import AsyncExitStack

import grpc
import pytest
from fake_service import FakeService, listening

from mixformer.tracking.v1 import tracking_pb2 as pb
from service.client import ClientError, TrackingClient, to_frame
from service.decode import PixelFormat, RawImage

START = [pb.TargetCommand(initialize=pb.BoundingBox(x=1, y=2, width=3, height=4))]


async def test_results_come_in_the_order_of_the_frames() -> None:
    with listening(FakeService()) as server:
        async with TrackingClient(server) as client, client.stream(pb.SessionOptions()) as stream:
            for number in range(3):
                await stream.send(to_frame(number, b"picture"), START if number == 0 else [])
            numbers = [(await stream.receive()).frame_number for _ in range(3)]
    assert numbers == [0, 1, 2]


async def test_a_stream_opens_with_its_options_and_deletes_its_session_at_the_end() -> None:
    service = FakeService()
    with listening(service) as server:
        async with TrackingClient(server) as client, client.stream(pb.SessionOptions(update_interval_frames=7)):
            assert service.options == [pb.SessionOptions(update_interval_frames=7)]
            assert service.deleted == []
        assert service.deleted == ["fake"]


async def test_a_session_that_has_ended_by_itself_needs_no_deleting() -> None:
    service = FakeService()
    with listening(service) as server:
        async with TrackingClient(server) as client:
            service.delete_fails = grpc.StatusCode.NOT_FOUND
            async with client.stream(pb.SessionOptions()):
                pass
            service.delete_fails = grpc.StatusCode.INTERNAL
            with pytest.raises(ClientError, match="INTERNAL: not deleted"):
                async with client.stream(pb.SessionOptions()):
                    pass


async def test_a_stream_that_the_server_ends_names_server_and_status() -> None:
    with listening(FakeService(fails_at=1)) as server, pytest.raises(ClientError, match=f"{server}: UNAVAILABLE: draining"):
        async with TrackingClient(server) as client, client.stream(pb.SessionOptions()) as stream:
            for number in range(2):
                await stream.send(to_frame(number, b"picture"), START)
                await stream.receive()


async def test_sending_on_an_ended_stream_says_why_it_ended() -> None:
    with listening(FakeService(fails_at=0)) as server, pytest.raises(ClientError, match="UNAVAILABLE: draining"):
        async with TrackingClient(server) as client, client.stream(pb.SessionOptions()) as stream:
            await stream.send(to_frame(0, b"picture"), START)
            with pytest.raises(ClientError):
                await stream.receive()
            await stream.send(to_frame(1, b"picture"), [])


async def test_a_server_that_is_killed_is_an_error_and_no_cancellation_of_ours() -> None:
    async with AsyncExitStack() as clients:
        with listening(FakeService()) as server:
            client = await clients.enter_async_context(TrackingClient(server))
            stream = client.stream(pb.SessionOptions())
            await stream.__aenter__()
        with pytest.raises(ClientError, match=server):
            await stream.receive()


async def test_cancelling_who_waits_for_a_result_is_a_cancellation() -> None:
    with listening(FakeService()) as server:
        async with TrackingClient(server) as client:
            stream = client.stream(pb.SessionOptions())
            await stream.__aenter__()
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
        with pytest.raises(ClientError, match=f"{server}: UNAVAILABLE"):
            async with client.stream(pb.SessionOptions()):
                pass


def test_raw_pixels_go_with_their_size_and_format() -> None:
    frame = to_frame(4, RawImage(b"\x01" * 12, 2, 2, PixelFormat.BGR24))
    assert frame == pb.Frame(
        frame_number=4, raw=pb.RawImage(data=b"\x01" * 12, width=2, height=2, pixel_format=pb.PIXEL_FORMAT_BGR24)
    )


def test_encoded_pictures_go_as_they_are() -> None:
    assert to_frame(5, b"\xff\xd8\xff") == pb.Frame(frame_number=5, encoded=b"\xff\xd8\xff")

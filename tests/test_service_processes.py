"""The front and the worker as processes of their own: a real network behind a real connection."""

import asyncio
import re
import signal
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.descriptor_pool import DescriptorPool
from grpc import aio
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from pictures import encoded, jpeg_claiming, scene
from processes import Running, service

from mixformer.tracking.v1 import tracking_pb2 as pb
from mixformer.tracking.v1.tracking_pb2_grpc import TrackingServiceStub
from service.config import Limits, ServeSettings

if TYPE_CHECKING:  # it exists for type checkers alone
    from mixformer.tracking.v1.tracking_pb2_grpc import TrackingServiceAsyncStub

PROCESSED, REJECTED = pb.FRAME_OUTCOME_PROCESSED, pb.FRAME_OUTCOME_REJECTED
SERVICE = "mixformer.tracking.v1.TrackingService"
SETTINGS = ServeSettings(limits=Limits(max_frame_bytes=1024 * 1024, max_targets_per_session=4))
GOOD = encoded(scene())
ENDS_SECONDS = 30
OPERATIONS = Path(__file__).parents[1] / "docs" / "operations.md"

Call = aio.StreamStreamCall[pb.TrackStreamRequest, pb.TrackStreamResponse]


@pytest.fixture(scope="module")
def running(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with service(tiny_weights, tmp_path_factory.mktemp("service"), SETTINGS) as started:
        yield started


@pytest_asyncio.fixture
async def channel(running: Running) -> AsyncIterator[aio.Channel]:
    async with aio.insecure_channel(running.address) as connected:
        yield connected


def start(target_id: str, x: float, y: float) -> pb.TargetCommand:
    return pb.TargetCommand(target_id=target_id, initialize=pb.BoundingBox(x=x, y=y, width=40, height=40))


async def opened(channel: aio.Channel) -> Call:
    call: Call = TrackingServiceStub(channel).TrackStream()
    await call.write(pb.TrackStreamRequest(config=pb.StreamConfig()))
    assert isinstance(await call.read(), pb.TrackStreamResponse)
    return call


async def result(call: Call) -> pb.FrameResult:
    async with asyncio.timeout(ENDS_SECONDS):
        event = await call.read()
    assert isinstance(event, pb.TrackStreamResponse)
    return event.result


async def tracked(call: Call, number: int, frame: pb.Frame | None = None, *commands: pb.TargetCommand) -> pb.FrameResult:
    """The result of one frame: a good one where none is given."""
    sent = pb.Frame(encoded=GOOD)
    sent.MergeFrom(frame or pb.Frame())
    sent.frame_number = number
    await call.write(pb.TrackStreamRequest(frame=sent, targets=commands))
    return await result(call)


async def test_a_stream_tracks_several_targets_in_one_batch(channel: aio.Channel) -> None:
    call = await opened(channel)
    targets = [start("a", 40, 40), start("b", 140, 90), start("c", 240, 150)]
    await tracked(call, 0, None, *targets)
    for number in range(1, 4):
        found = await tracked(call, number)
        assert (found.frame_number, found.outcome) == (number, PROCESSED)
        assert [each.target_id for each in found.targets] == ["a", "b", "c"]
        assert all(0 <= each.box.x <= 320 - 10 and 0 < each.score < 1 for each in found.targets)
        # The first may leave before the others have come; those share a batch at least.
        assert found.timing.batch_size >= 2
        assert found.timing.backbone.ToTimedelta() <= found.timing.total.ToTimedelta()
    await call.done_writing()
    assert await call.read() is aio.EOF


async def test_targets_side_by_side_are_tracked_as_each_would_be_alone(channel: aio.Channel) -> None:
    commands = [start("a", 40, 40), start("b", 140, 90)]
    frames = [pb.Frame(encoded=encoded(scene(seed=seed))) for seed in range(3)]

    async def last(*chosen: pb.TargetCommand) -> list[float]:
        call = await opened(channel)
        for number, frame in enumerate(frames):
            found = await tracked(call, number, frame, *(chosen if number == 0 else ()))
        return [value for each in found.targets for value in (each.box.x, each.box.y, each.box.width, each.score)]

    alone = [await last(command) for command in commands]
    assert await last(*commands) == pytest.approx([value for each in alone for value in each], abs=0.05)


RAW = pb.RawImage(data=bytes(100), width=320, height=240, pixel_format=pb.PIXEL_FORMAT_RGB24)
BAD: dict[str, tuple[pb.Frame, list[pb.TargetCommand], str]] = {
    "not an image": (pb.Frame(encoded=b"hello"), [], "BAD_FRAME"),
    "truncated JPEG": (pb.Frame(encoded=GOOD[: len(GOOD) // 2]), [], "BAD_FRAME"),
    "huge header": (pb.Frame(encoded=jpeg_claiming(50000, 50000)), [], "FRAME_TOO_LARGE"),
    "zero bytes": (pb.Frame(encoded=b""), [], "BAD_FRAME"),
    "raw size that does not match": (pb.Frame(raw=RAW), [], "BAD_FRAME"),
    "frame over the limit": (pb.Frame(encoded=GOOD + bytes(1024 * 1024)), [], "FRAME_TOO_LARGE"),
    "box outside": (pb.Frame(), [start("new", 900, 900)], "BAD_BOX"),
    "box empty": (pb.Frame(), [pb.TargetCommand(target_id="new", initialize=pb.BoundingBox())], "BAD_BOX"),
    "box not a number": (pb.Frame(), [start("new", float("nan"), 0)], "BAD_BOX"),
    "box negative": (pb.Frame(), [pb.TargetCommand(initialize=pb.BoundingBox(width=-5, height=9))], "BAD_BOX"),
    "too many targets": (pb.Frame(), [start(name, 40, 40) for name in "bcdef"], "TOO_MANY_TARGETS"),
    "missing target": (pb.Frame(), [pb.TargetCommand(target_id="ghost", remove=True)], "TARGET_NOT_FOUND"),
}


async def test_every_bad_frame_is_refused_with_its_reason_and_the_next_is_tracked(channel: aio.Channel) -> None:
    call = await opened(channel)
    first = await tracked(call, 0)
    assert (first.outcome, first.error.reason) == (REJECTED, "NO_TARGET")
    await tracked(call, 1, None, start("a", 40, 40))
    for number, (name, (frame, commands, reason)) in enumerate(BAD.items()):
        refused = await tracked(call, 2 * number + 2, frame, *commands)
        assert (name, refused.outcome, refused.error.reason) == (name, REJECTED, reason)
        assert refused.error.code != 0 and refused.error.message
        good = await tracked(call, 2 * number + 3)
        assert (name, good.outcome, [each.target_id for each in good.targets]) == (name, PROCESSED, ["a"])


async def test_a_client_that_goes_in_the_middle_leaves_nothing_behind(running: Running, channel: aio.Channel) -> None:
    async with aio.insecure_channel(running.address) as leaving:
        call = await opened(leaving)
        await tracked(call, 0, None, start("a", 40, 40))
        for number in range(1, 6):
            await call.write(pb.TrackStreamRequest(frame=pb.Frame(frame_number=number, encoded=GOOD)))
    call = await opened(channel)
    await tracked(call, 0, None, start("a", 40, 40))
    assert (await tracked(call, 1)).outcome == PROCESSED
    await shows(running, "mixformer_streams_active 1.0")


def scraped(running: Running) -> str:
    """The metrics as Prometheus gets them."""
    with urllib.request.urlopen(running.metrics, timeout=5) as answer:
        text: str = answer.read().decode()
    return text


async def shows(running: Running, sample: str) -> None:
    """Wait until the metrics have this line."""
    async with asyncio.timeout(ENDS_SECONDS):
        while sample not in (await asyncio.to_thread(scraped, running)).splitlines():
            await asyncio.sleep(0.05)


async def delete_all(stub: "TrackingServiceAsyncStub") -> None:
    for session in (await stub.ListSessions(pb.ListSessionsRequest())).sessions:
        await stub.DeleteSession(pb.DeleteSessionRequest(session_id=session.session_id))


async def test_the_worker_gives_the_slots_of_a_deleted_session_back(running: Running, channel: aio.Channel) -> None:
    stub = TrackingServiceStub(channel)
    await delete_all(stub)
    call = await opened(channel)
    await tracked(call, 0, None, start("a", 30, 30), start("b", 150, 30))
    await tracked(call, 1)
    await shows(running, 'mixformer_slots_in_use{worker="0"} 2.0')
    await delete_all(stub)
    await shows(running, 'mixformer_slots_in_use{worker="0"} 0.0')


async def test_the_scrape_shows_what_the_worker_measured(running: Running, channel: aio.Channel) -> None:
    call = await opened(channel)
    await tracked(call, 0, None, start("a", 40, 40))
    await tracked(call, 1)
    text = await asyncio.to_thread(scraped, running)
    for words in (
        'mixformer_backbone_latency_seconds_count{batch="1",device="cpu",stage="all"}',
        'mixformer_template_encode_latency_seconds_count{device="cpu"}',
        'mixformer_frames_total{outcome="processed"}',
        'variant="mixvit_tiny"',
        'mixformer_worker_up{worker="0"} 1.0',
    ):
        assert words in text


async def test_a_scrape_has_every_metric_and_none_that_is_not_documented(running: Running) -> None:
    text = await asyncio.to_thread(scraped, running)
    found = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert found == set(re.findall(r"^\| `(mixformer_\w+)` \|", OPERATIONS.read_text(), re.MULTILINE))


async def test_health_and_reflection_answer(running: Running, channel: aio.Channel) -> None:
    health: Any = HealthStub(channel)
    for name in ("", SERVICE, "live"):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert SERVICE in await asyncio.to_thread(reflected, running.address)


def reflected(address: str) -> list[str]:
    """The services that reflection names, with their methods found."""
    with grpc.insecure_channel(address) as connected:
        database = ProtoReflectionDescriptorDatabase(connected)
        found = DescriptorPool(database).FindServiceByName(SERVICE)
        assert "TrackStream" in found.methods_by_name
        return list(database.get_services())


async def test_sigterm_ends_the_front_after_the_frames_in_hand(tiny_weights: Path, tmp_path: Path) -> None:
    with service(tiny_weights, tmp_path, replace(SETTINGS, grace_seconds=20)) as started:
        async with aio.insecure_channel(started.address) as connected:
            call = await opened(connected)
            await tracked(call, 0, None, start("a", 40, 40))
            await call.write(pb.TrackStreamRequest(frame=pb.Frame(frame_number=1, encoded=GOOD)))
            await result(call)
            started.front.send_signal(signal.SIGTERM)
            event = await call.read()
            assert isinstance(event, pb.TrackStreamResponse) and event.draining.deadline.seconds == 20
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
        assert await asyncio.to_thread(started.front.wait, ENDS_SECONDS) == 0

"""Calls of one message, over a real connection to a front whose engine is a fake: single frames, sessions, what runs here."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
from fake_calls import ENSURE, START, Service, reason, serving
from fake_front import GOOD, PROCESSED, bench, until
from grpc import aio

from mixformer.tracking.v1 import tracking_pb2 as pb
from service.config import Limits

LIMITS = Limits(max_sessions=6, max_streams=3, max_frame_bytes=1024 * 1024)


@pytest_asyncio.fixture
async def service() -> AsyncIterator[Service]:
    async with serving(bench(LIMITS), LIMITS.max_frame_bytes) as started:
        yield started


async def test_single_frames_are_tracked_in_the_order_they_came(service: Service) -> None:
    await service.track("cam", 0, START)
    session = service.bench.found("cam")
    service.engine.gate.clear()
    calls: list[asyncio.Future[pb.FrameResult]] = []
    for number in range(1, 5):
        calls.append(asyncio.ensure_future(service.track("cam", number)))
        await until(lambda: session._queued == len(calls))
    service.engine.gate.set()
    results = await asyncio.gather(*calls)
    assert [each.frame_number for each in results] == [1, 2, 3, 4]
    assert session.last_frame_number == 4


async def test_a_single_frame_begins_a_session_only_with_a_target(service: Service) -> None:
    assert await reason(service.track("cam", 0)) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
    assert (await service.track("cam", 0, ENSURE)).outcome == PROCESSED
    assert (await service.track("cam", 1)).outcome == PROCESSED


async def test_a_single_frame_that_is_refused_begins_no_session(service: Service) -> None:
    request = pb.TrackRequest(session_id="cam", frame=pb.Frame(encoded=b"bad"), targets=[START])
    assert (await service.stub.Track(request)).result.error.reason == "BAD_FRAME"
    assert len(service.bench.front.table) == 0


async def test_a_session_outlives_the_refused_frame_that_began_it_where_others_have_joined(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = service.room_for_decoding(monkeypatch)
    begin = pb.TrackRequest(session_id="cam", frame=pb.Frame(encoded=b"bad"), targets=[START])
    refused = asyncio.ensure_future(service.stub.Track(begin))
    await until(lambda: len(service.bench.front.table) == 1)
    session = service.bench.found("cam")
    joined = asyncio.ensure_future(service.track("cam", 1, START))
    await until(lambda: session._queued == 2)
    room.set()
    assert (await refused).result.error.reason == "BAD_FRAME"
    assert (await joined).outcome == PROCESSED


async def test_metadata_names_the_session_too(service: Service) -> None:
    request = pb.TrackRequest(frame=pb.Frame(encoded=GOOD), targets=[START])
    named = await service.stub.Track(request, metadata=(("x-session-id", "routed"),))
    assert named.session_id == "routed"
    request.session_id = "other"
    call = service.stub.Track(request, metadata=(("x-session-id", "routed"),))
    assert await reason(call) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


async def test_a_session_without_a_name_gets_one(service: Service) -> None:
    answer = await service.stub.Track(pb.TrackRequest(frame=pb.Frame(encoded=GOOD), targets=[START]))
    assert (await service.track(answer.session_id, 1)).outcome == PROCESSED


async def test_a_resume_token_is_refused_not_ignored_where_there_are_no_keys(service: Service) -> None:
    call = service.stub.Track(pb.TrackRequest(resume_token=b"token", frame=pb.Frame(encoded=GOOD), targets=[START]))
    assert await reason(call) == (grpc.StatusCode.FAILED_PRECONDITION, "RESUME_TOKENS_OFF")
    granted = await service.begin(options=pb.SessionOptions(return_resume_token=True))
    await granted.done_writing()
    assert await granted.read() is aio.EOF


async def test_a_single_frame_finds_a_session_busy_while_a_stream_has_it(service: Service) -> None:
    call = await service.begin(session_id="cam")
    assert await reason(service.track("cam", 1)) == (grpc.StatusCode.FAILED_PRECONDITION, "SESSION_BUSY")
    await call.done_writing()
    assert await call.read() is aio.EOF
    assert (await service.track("cam", 1)).outcome == PROCESSED


async def test_sessions_are_shown_listed_and_deleted(service: Service) -> None:
    for name in ("a", "b", "c"):
        await service.track(name, 5, START)
    shown = (await service.stub.GetSession(pb.GetSessionRequest(session_id="b"))).session
    assert (shown.session_id, shown.last_frame_number, len(shown.targets)) == ("b", 5, 1)
    first = await service.stub.ListSessions(pb.ListSessionsRequest(page_size=2))
    rest = await service.stub.ListSessions(pb.ListSessionsRequest(page_size=2, page_token=first.next_page_token))
    assert [each.session_id for page in (first, rest) for each in page.sessions] == ["a", "b", "c"]
    assert rest.next_page_token == ""
    await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id="b"))
    for call in (service.stub.GetSession(pb.GetSessionRequest(session_id="b")), service.track("b", 6)):
        assert await reason(call) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")


async def test_the_server_tells_what_it_runs_and_its_limits(service: Service) -> None:
    info = await service.stub.GetServerInfo(pb.GetServerInfoRequest())
    assert (info.version, info.model_variant, info.device, info.precision) == ("1.2.3", "mixvit_tiny", "cpu", "float32")
    assert (info.max_frame_bytes, info.max_sessions, info.max_targets_per_session) == (1024 * 1024, 6, 16)


async def test_no_fault_of_ours_is_told_to_the_client(service: Service) -> None:
    object.__setattr__(service.bench.front, "hello", None)
    assert await reason(service.stub.GetServerInfo(pb.GetServerInfoRequest())) == (grpc.StatusCode.INTERNAL, "INTERNAL")


async def test_a_call_is_counted_by_how_it_ended(service: Service) -> None:
    await service.stub.ListSessions(pb.ListSessionsRequest())
    await reason(service.stub.GetSession(pb.GetSessionRequest(session_id="none")))
    (calls,) = (each for each in service.bench.metrics.registry.collect() if each.name == "mixformer_calls")
    assert {(each.labels["method"], each.labels["end"]): each.value for each in calls.samples} == {
        ("ListSessions", "ok"): 1.0,
        ("GetSession", "session_not_found"): 1.0,
    }

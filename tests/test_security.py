"""Who is let in, what they see, and how much they get: over real connections to the real service."""

import asyncio
import base64
import signal
import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import grpc
import psutil
import pytest
from google.rpc import error_details_pb2
from grpc import aio
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from grpc_status import rpc_status
from processes import PATIENCE_SECONDS
from secured import FROM_ENVIRONMENT, GOOD, RESUME_KEY, TOKENS, Call, Secured, open_session, secured, tracked

from mixformer.tracking.v1 import tracking_pb2 as pb
from mixformer.tracking.v1.tracking_pb2_grpc import TrackingServiceStub
from service.front.access.authentication import OPEN_METHODS

if TYPE_CHECKING:  # it exists for type checkers alone
    from mixformer.tracking.v1.tracking_pb2_grpc import TrackingServiceAsyncStub

CODE = grpc.StatusCode
METHODS = [method.name for method in pb.DESCRIPTOR.services_by_name["TrackingService"].methods]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    limits = ("--max-client-sessions", "2", "--max-client-frames-per-second", "5")
    with secured(tmp_path_factory.mktemp("secured"), *limits) as started:
        yield started


async def refusal(call: Any) -> tuple[grpc.StatusCode, str, float | None]:
    """Status, reason and seconds until another try, of a call that ends before its answer."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(aio.AioRpcError) as caught:
            await (call.read() if isinstance(call, aio.StreamStreamCall) else call)
    ended: Any = caught.value
    status = rpc_status.from_call(ended)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status.details if status else ():
        detail.Unpack(info)
        detail.Unpack(retry)
    return ended.code(), info.reason, retry.retry_delay.ToTimedelta().total_seconds() or None


def call_of(channel: aio.Channel, method: str, token: str) -> Any:
    """A call whose request is empty, or a stream that sends nothing."""
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    stub = TrackingServiceStub(channel)
    if method == "TrackStream":
        return stub.TrackStream(metadata=metadata)
    return getattr(stub, method)(getattr(pb, f"{method}Request")(), metadata=metadata)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("token", ["", "token-that-nobody-has"])
async def test_no_method_answers_without_a_good_token(house: Secured, method: str, token: str) -> None:
    async with house.access().channel(house.running.address) as channel:
        assert await refusal(call_of(channel, method, token)) == (CODE.UNAUTHENTICATED, "UNAUTHENTICATED", None)


async def test_reflection_and_watching_health_need_a_token_and_asking_for_health_does_not(house: Secured) -> None:
    async with house.access().channel(house.running.address) as channel:
        health: Any = HealthStub(channel)
        reflection: Any = ServerReflectionStub(channel)  # type: ignore[arg-type]  # the published stubs know one kind
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        for call in (health.Watch(health_pb2.HealthCheckRequest()), reflection.ServerReflectionInfo()):
            with pytest.raises(aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is CODE.UNAUTHENTICATED
        asked = reflection.ServerReflectionInfo(metadata=house.access(TOKENS["cam"]).metadata)
        await asked.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        named = {each.name for each in (await asked.read()).list_services_response.service}
    assert "mixformer.tracking.v1.TrackingService" in named
    assert OPEN_METHODS == {"/grpc.health.v1.Health/Check"}


async def test_no_connection_without_a_certificate_of_the_authority(house: Secured) -> None:
    authority = house.authority.certificate
    stranger = type(house.authority)("another").client("camera")
    for mine in ({}, {"private_key": stranger.key, "certificate_chain": stranger.certificate}):
        credentials = grpc.ssl_channel_credentials(authority, **mine)
        async with aio.secure_channel(house.running.address, credentials) as channel:
            assert (await refusal(call_of(channel, "GetServerInfo", TOKENS["cam"])))[0] is CODE.UNAVAILABLE
    async with aio.insecure_channel(house.running.address) as channel:
        assert (await refusal(call_of(channel, "GetServerInfo", TOKENS["cam"])))[0] is CODE.UNAVAILABLE


async def test_a_session_is_not_there_for_any_other_client(house: Secured) -> None:
    async with house.access().channel(house.running.address) as channel:
        stub: TrackingServiceAsyncStub = TrackingServiceStub(channel)
        mine, session_id = await open_session(channel, TOKENS["cam"])
        assert (await tracked(mine, 0)).outcome == pb.FRAME_OUTCOME_PROCESSED
        for owner in ("rival", "shell"):
            others = (("authorization", f"Bearer {TOKENS.get(owner, FROM_ENVIRONMENT)}"),)
            calls: list[Any] = [
                stub.GetSession(pb.GetSessionRequest(session_id=session_id), metadata=others),
                stub.DeleteSession(pb.DeleteSessionRequest(session_id=session_id), metadata=others),
                stub.Track(pb.TrackRequest(session_id=session_id, frame=pb.Frame(encoded=GOOD)), metadata=others),
            ]
            for call in calls:
                assert (await refusal(call))[:2] == (CODE.NOT_FOUND, "SESSION_NOT_FOUND")
            assert not (await stub.ListSessions(pb.ListSessionsRequest(), metadata=others)).sessions
        # A stream with that id begins a session of its own: it takes nothing over and sees no target.
        theirs, same_id = await open_session(channel, TOKENS["rival"], session_id)
        await theirs.write(pb.TrackStreamRequest(frame=pb.Frame(encoded=GOOD)))
        event = await theirs.read()
        assert isinstance(event, pb.TrackStreamResponse)
        assert (same_id, event.result.error.reason) == (session_id, "NO_TARGET")
        assert (await tracked(mine, 1)).outcome == pb.FRAME_OUTCOME_PROCESSED
        found = await stub.ListSessions(pb.ListSessionsRequest(), metadata=house.access(TOKENS["cam"]).metadata)
        assert [each.session_id for each in found.sessions] == [session_id]


async def test_a_client_has_its_share_of_sessions_and_is_told_when_one_ends(house: Secured) -> None:
    async with house.access().channel(house.running.address) as channel:
        stub: TrackingServiceAsyncStub = TrackingServiceStub(channel)
        held = [await open_session(channel, TOKENS["desk"]) for _ in range(2)]
        call: Call = stub.TrackStream(metadata=house.access(TOKENS["desk"]).metadata)
        await call.write(pb.TrackStreamRequest(config=pb.StreamConfig()))
        code, reason, retry = await refusal(call)
        assert (code, reason) == (CODE.RESOURCE_EXHAUSTED, "TOO_MANY_SESSIONS")
        assert retry is not None and 0 < retry <= 300
        assert "client token:desk has 2 sessions open, max_client_sessions is 2" in str(await call.details())
        # One of its own it may still take over, and others have their own share.
        await open_session(channel, TOKENS["desk"], held[0][1])
        await open_session(channel, FROM_ENVIRONMENT)


async def test_streams_that_say_nothing_do_not_take_the_room_of_other_clients(house: Secured) -> None:
    async with house.access().channel(house.running.address) as channel:
        silent = [call_of(channel, "TrackStream", TOKENS["rival"]) for _ in range(5)]
        ends = [asyncio.create_task(refusal(call)) for call in silent]
        ended, waiting = await asyncio.wait(ends, timeout=PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        assert {end.result()[1] for end in ended} == {"TOO_MANY_STREAMS"}, "two for each of its two sessions are let in"
        await open_session(channel, TOKENS["cam"])
        for end in waiting:
            end.cancel()


async def test_frames_over_a_clients_rate_are_refused_in_band_and_the_stream_goes_on(house: Secured) -> None:
    async with house.access().channel(house.running.address) as channel:
        call, _ = await open_session(channel, FROM_ENVIRONMENT)
        results = [await tracked(call, number) for number in range(20)]
        (refused, *_) = (each for each in results if each.outcome == pb.FRAME_OUTCOME_REJECTED)
        assert refused.error.reason == "RATE_LIMITED" and refused.error.code == CODE.RESOURCE_EXHAUSTED.value[0]
        assert "token:shell is over max_client_frames_per_second 5: try again in" in refused.error.message
        assert 0 < refused.error.retry_delay.ToTimedelta().total_seconds() <= 0.2
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (await tracked(call, 20)).outcome != pb.FRAME_OUTCOME_PROCESSED:
                await asyncio.sleep(0.05)


async def test_session_ids_have_128_random_bits(house: Secured) -> None:
    async with house.access().channel(house.running.address) as channel:
        ids = []
        for _ in range(20):
            call, session_id = await open_session(channel, TOKENS["rival"])
            await call.done_writing()
            assert await call.read() is aio.EOF
            ids.append(base64.urlsafe_b64decode(session_id + "=="))
    assert {len(each) for each in ids} == {16}
    assert all(len({each[place] for each in ids}) > 10 for place in range(16)), "no byte of them is the same over and over"


def test_no_secret_is_written_anywhere(house: Secured) -> None:
    """The last test of this file: whatever the others made the service write, and what it is started with."""
    with urllib.request.urlopen(house.running.metrics, timeout=5) as answer:
        written = answer.read().decode()
    processes = [psutil.Process(house.running.parent.pid), house.running.front(), house.running.worker()]
    written += " ".join(word for each in processes for word in each.cmdline())
    house.running.parent.send_signal(signal.SIGTERM)
    assert house.running.parent.wait(PATIENCE_SECONDS) == 0
    written += house.everything_written()
    assert "mixformer_unauthenticated_calls_total" in written and "DEBUG" in written
    key = (house.folder / "server.key").read_text().splitlines()
    secrets = [*TOKENS.values(), FROM_ENVIRONMENT, RESUME_KEY, "token-that-nobody-has", *key[1:-1]]
    assert [secret for secret in secrets if secret in written] == []

"""Resume tokens: when they are given, what goes on from one, and what is refused."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import msgspec
import pytest
import pytest_asyncio
from fake_calls import START, Call, Service, event, reason, result, send, serving
from fake_front import GOOD, bench, start
from grpc import aio
from hypothesis import given, settings
from hypothesis import strategies as st
from test_metrics import scrape

from mixformer.tracking.v1 import tracking_pb2 as pb
from service.config import Limits, SettingsError
from service.errors import ResumeTokenInvalid, ResumeTokenVersion
from service.front.resume.token_keys import Keys, parse_keys

FIRST, SECOND = b"first " + b"11" * 32, b"second " + b"22" * 32
KEYS = parse_keys(FIRST)
WANTED = pb.SessionOptions(return_resume_token=True, update_interval_frames=4)


def test_the_first_key_of_a_file_seals_and_all_are_accepted() -> None:
    both = parse_keys(b"# keys\n\n" + SECOND + b"\n" + FIRST + b"\n")
    assert both.signing == "second"
    assert both.open(KEYS.seal(b"content")) == b"content"
    with pytest.raises(ResumeTokenInvalid, match="a key that this server does not have"):
        KEYS.open(both.seal(b"content"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "there is no key"),
        (b"short 1234", "line 1 is not an id and a key"),
        (FIRST + b"\n" + FIRST, "line 2 gives key first again"),
        (b"\xff\xfe", "line 1"),
        (b"odd " + b"1" * 65, "line 1"),
    ],
)
def test_a_wrong_key_file_is_told_without_showing_it(content: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        parse_keys(content)
    assert "1111" not in str(caught.value)


def test_a_wrong_key_file_stops_the_start_with_the_settings_name(tmp_path: Path) -> None:
    for name in (tmp_path / "absent", tmp_path):
        with pytest.raises(SettingsError, match=f"token_keys='{name}' cannot be used"):
            bench(token_keys=str(name))


@given(at=st.integers(0, 10_000), flip=st.integers(1, 255))
@settings(max_examples=300, deadline=None)
def test_a_token_with_any_byte_changed_is_refused(at: int, flip: int) -> None:
    token = bytearray(KEYS.seal(b"some content of a token"))
    token[at % len(token)] ^= flip
    with pytest.raises((ResumeTokenInvalid, ResumeTokenVersion)):
        KEYS.open(bytes(token))


@given(token=st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_are_no_token(token: bytes) -> None:
    with pytest.raises((ResumeTokenInvalid, ResumeTokenVersion)):
        KEYS.open(token)


@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 60])
def test_a_piece_of_a_token_is_no_token(length: int) -> None:
    with pytest.raises(ResumeTokenInvalid):
        KEYS.open(KEYS.seal(b"some content of a token")[:length])


class Place:
    """Servers that share a file of keys."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.keys = folder / "keys"
        self.keys.write_bytes(FIRST)
        self._stack = stack

    async def server(self, **others: object) -> Service:
        """Another server with the keys."""
        return await self._stack.enter_async_context(serving(bench(token_keys=str(self.keys), **others)))  # type: ignore[arg-type]


@pytest_asyncio.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        yield Place(tmp_path, stack)


async def token(call: Call) -> pb.ResumeToken:
    """The next event, which is a token."""
    found = await event(call)
    assert found.HasField("resume_token")
    return found.resume_token


async def given_one(service: Service, **config: object) -> pb.ResumeToken:
    """The token of a new session `cam` after its first frame."""
    call = await service.begin(session_id="cam", options=WANTED, **config)
    return await token(call)


async def test_a_token_comes_when_a_template_changes_and_every_few_seconds(place: Place) -> None:
    service = await place.server()
    renewed: list[int] = []
    carried: list[int] = []
    for number in range(18):
        service.bench.time.now += 1
        request = pb.TrackRequest(session_id="cam", frame=pb.Frame(frame_number=number, encoded=GOOD))
        if number == 0:
            request.targets.append(START)
            request.options.CopyFrom(WANTED)
        answer = await service.stub.Track(request)
        renewed += [number] * answer.result.targets[0].template_updated
        carried += [answer.resume_token.last_frame_number] * answer.HasField("resume_token")
    assert (renewed, carried) == ([0, 4], [0, 4, 9, 14])
    assert scrape(service.bench.metrics)["resume_tokens_issued_total"] == 4


async def test_who_did_not_ask_gets_none(place: Place) -> None:
    service = await place.server()
    call = await service.begin()
    await call.done_writing()
    assert await call.read() is aio.EOF


async def test_a_session_goes_on_elsewhere_where_the_token_left_it(place: Place) -> None:
    here, there = await place.server(), await place.server()
    resumed = await given_one(here)
    call = there.stub.TrackStream()
    await call.write(pb.TrackStreamRequest(config=pb.StreamConfig(resume_token=resumed.token)))
    session = (await event(call)).session
    assert (session.session_id, session.last_frame_number, session.epoch) == ("cam", 0, 2)
    assert session.options == (await granted(here)).options
    await send(call, 1)
    assert (await result(call)).outcome == pb.FRAME_OUTCOME_PROCESSED
    assert there.engine.used == [here.bench.found("cam").targets[""].memory_key]
    assert scrape(there.bench.metrics)["sessions_resumed_total{'source': 'token'}"] == 1


async def granted(service: Service) -> pb.Session:
    return (await service.stub.GetSession(pb.GetSessionRequest(session_id="cam"))).session


async def test_a_token_takes_a_session_back_to_its_frame(place: Place) -> None:
    service = await place.server()
    resumed = await given_one(service)
    again = await service.open(resume_token=resumed.token)
    await send(again, 1)
    await result(again)
    third = await service.open(resume_token=resumed.token)
    assert (await granted(service)).last_frame_number == 0
    await send(third, 1)
    assert (await result(third)).outcome == pb.FRAME_OUTCOME_PROCESSED


async def test_single_frames_take_and_give_tokens(place: Place) -> None:
    here, there = await place.server(), await place.server()
    frame = pb.Frame(frame_number=7, encoded=GOOD)
    first = await here.stub.Track(pb.TrackRequest(session_id="cam", frame=frame, targets=[START], options=WANTED))
    assert first.resume_token.last_frame_number == 7
    request = pb.TrackRequest(frame=pb.Frame(frame_number=8, encoded=GOOD), resume_token=first.resume_token.token)
    answer = await there.stub.Track(request)
    assert (answer.session_id, answer.result.outcome) == ("cam", pb.FRAME_OUTCOME_PROCESSED)


async def test_draining_gives_every_stream_its_last_token_after_the_frames_in_hand(place: Place) -> None:
    here, there = await place.server(), await place.server()
    call = await here.begin(session_id="cam")
    await here.hold_up(call, 1)
    draining = asyncio.create_task(here.servicer.drain(30.0))
    assert (await event(call)).draining.deadline.seconds == 30
    here.engine.gate.set()
    assert (await result(call)).frame_number == 1
    last = await token(call)
    assert last.last_frame_number == 1
    assert await reason(call) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    await draining
    again = await there.open(resume_token=last.token)
    await send(again, 2)
    assert (await result(again)).outcome == pb.FRAME_OUTCOME_PROCESSED


async def refusal(service: Service, resume_token: bytes, session_id: str = "") -> tuple[grpc.StatusCode, str]:
    """How a stream and a single frame with this token end: both alike."""
    call = service.stub.TrackStream()
    config = pb.StreamConfig(session_id=session_id, resume_token=resume_token)
    await call.write(pb.TrackStreamRequest(config=config))
    of_stream = await reason(call)
    request = pb.TrackRequest(session_id=session_id, frame=pb.Frame(encoded=GOOD), targets=[START], resume_token=resume_token)
    assert await reason(service.stub.Track(request)) == of_stream
    assert scrape(service.bench.metrics)[f"resume_tokens_refused_total{{'reason': '{of_stream[1].lower()}'}}"] == 2
    return of_stream


async def test_what_is_not_a_token_of_ours_is_refused(place: Place) -> None:
    service = await place.server()
    good = (await given_one(service)).token
    assert await refusal(service, good[:-1]) == (grpc.StatusCode.INVALID_ARGUMENT, "RESUME_TOKEN_INVALID")
    stranger = Keys("first", {"first": os.urandom(32)})
    forged = stranger.seal(KEYS.open(good))
    call = service.stub.Track(pb.TrackRequest(frame=pb.Frame(encoded=GOOD), resume_token=forged))
    assert await reason(call) == (grpc.StatusCode.INVALID_ARGUMENT, "RESUME_TOKEN_INVALID")


async def test_a_token_of_another_session_is_refused(place: Place) -> None:
    service = await place.server()
    good = (await given_one(service)).token
    assert await refusal(service, good, "other") == (grpc.StatusCode.INVALID_ARGUMENT, "RESUME_TOKEN_INVALID")


async def test_a_token_of_another_client_is_refused(place: Place) -> None:
    service = await place.server()
    session = service.bench.session("cam", WANTED, client="certificate:CN=somebody else")
    await service.bench.track(session, 0, start())
    theirs = service.bench.front.resume_tokens.of(session)
    assert theirs is not None
    assert await refusal(service, theirs.token) == (grpc.StatusCode.PERMISSION_DENIED, "RESUME_TOKEN_FOREIGN")


async def test_a_token_of_another_variant_is_refused(place: Place) -> None:
    service = await place.server()
    state, crops = msgspec.msgpack.decode(KEYS.open((await given_one(service)).token))
    changed = msgspec.msgpack.encode((state.replace(b"mixvit_tiny", b"mixvit_base"), crops))
    assert await refusal(service, KEYS.seal(changed)) == (grpc.StatusCode.FAILED_PRECONDITION, "RESUME_TOKEN_MISMATCH")


async def test_a_token_of_another_release_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    service = await place.server()
    good = (await given_one(service)).token
    monkeypatch.setattr("service.front.resume.token_keys.VERSION", 2)
    assert await refusal(service, good) == (grpc.StatusCode.FAILED_PRECONDITION, "RESUME_TOKEN_VERSION")


async def test_a_token_over_the_limit_is_neither_taken_nor_given(place: Place) -> None:
    service, small = await place.server(), await place.server(limits=Limits(max_resume_token_bytes=2048))
    good = (await given_one(service)).token
    assert await refusal(small, good) == (grpc.StatusCode.INVALID_ARGUMENT, "RESUME_TOKEN_TOO_LARGE")
    call = await small.begin(options=WANTED)
    await call.done_writing()
    assert await call.read() is aio.EOF
    assert scrape(small.bench.metrics)["resume_tokens_withheld_total"] == 1
    info = await small.stub.GetServerInfo(pb.GetServerInfoRequest())
    assert info.max_resume_token_bytes == 2048


async def test_keys_change_while_the_server_runs_and_no_token_that_is_out_is_refused(place: Place) -> None:
    service = await place.server()
    old = (await given_one(service)).token
    place.keys.write_bytes(SECOND + b"\n" + FIRST)
    async with asyncio.timeout(30):
        while msgspec.msgpack.decode((await given_one(service)).token[32:])[1] != "second":
            await asyncio.sleep(0.05)
    await service.open(resume_token=old)


async def test_a_token_whose_key_was_taken_away_is_refused(place: Place) -> None:
    old = (await given_one(await place.server())).token
    place.keys.write_bytes(SECOND)
    assert await refusal(await place.server(), old) == (grpc.StatusCode.INVALID_ARGUMENT, "RESUME_TOKEN_INVALID")

"""Sessions from outside: resume tokens, and what the store holds. Whatever is taken in must be one that goes on."""

import asyncio
import atexit
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import msgspec
from fake_front import Bench, bench, start

from fuzz.damage import damaged
from fuzz.subject import SERVED, Subject, reason_of
from fuzz.values import altered, nested
from mixformer.tracking.v1 import tracking_pb2 as pb
from model.geometry import Box
from service.errors import ServiceError
from service.front.calls.convert import result_message, session_message
from service.front.resume.snapshot import SnapshotError, Snapshots
from service.front.resume.token_keys import Keys, parse_keys
from service.front.tracking.session import SessionState

_KEY = b"first " + b"11" * 32
_CLIENT = "me"


class _Place(NamedTuple):
    """A front with keys, and a session that it has tracked: as a token, as a snapshot, and as plain values."""

    bench: Bench
    keys: Keys
    snapshots: Snapshots
    token: bytes
    state: bytes
    crops: list[bytes]
    values: Any


@cache
def _place() -> _Place:
    return _loop().run_until_complete(_tracked())


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


@cache
def _folder() -> Path:
    # Until the process ends: the file of the keys is looked at again and again.
    folder = TemporaryDirectory()
    atexit.register(folder.cleanup)
    return Path(folder.name)


async def _tracked() -> _Place:
    file = _folder() / "keys"
    file.write_bytes(_KEY)
    here = bench(token_keys=str(file))
    session = here.session("cam", pb.SessionOptions(update_interval_frames=2, return_resume_token=True))
    await here.track(session, 0, start("a"), start("b", Box(50, 50, 30, 20)))
    for number in range(1, 4):
        await here.track(session, number)
    token = here.front.resume_tokens.of(session)
    assert token is not None
    keys = parse_keys(_KEY)
    state, crops = msgspec.msgpack.decode(keys.open(token.token))
    snapshots = here.front.resume_tokens._snapshots
    return _Place(here, keys, snapshots, token.token, state, crops, msgspec.msgpack.decode(state))


def token(chance: Random) -> bytes:
    """A good token, damaged; one whose seal is good and whose content is not; or nothing of the sort."""
    place = _place()
    match chance.randrange(5):
        case 0:
            return damaged(chance, place.token)
        case 1:
            return place.keys.seal(damaged(chance, place.keys.open(place.token)))
        case 2:
            return chance.randbytes(32) + damaged(chance, b"\x94\x01\xa5first\xc4\x00") + nested(chance)
        case 3:
            return chance.randbytes(chance.randrange(200))
        case _:
            return place.keys.seal(msgspec.msgpack.encode(stored(chance)))


def stored(chance: Random) -> tuple[bytes, list[bytes]]:
    """The state and the crops of a session, with something wrong."""
    place = _place()
    values = place.values | {"session": altered(chance, place.values["session"])}
    state, crops = msgspec.msgpack.encode(values if chance.random() < 0.9 else altered(chance, values)), list(place.crops)
    if chance.random() < 0.2:
        state = damaged(chance, place.state)
    if chance.random() < 0.02:
        state = b"\x82\xa7variant\xabmixvit_tiny\xa5other" + nested(chance)
    if crops and chance.random() < 0.1:
        crops[0] = damaged(chance, crops[0])
    return state, crops


def judge_token(given: bytes) -> str:
    """Refused with an error of ours, or gone on from."""
    try:
        state = _place().bench.front.resume_tokens.open(given, _CLIENT, "")
    except ServiceError as error:
        return reason_of(error)
    return _gone_on(state)


def judge_stored(given: tuple[bytes, list[bytes]]) -> str:
    """The same for what the store gives."""
    try:
        state = _place().snapshots.read(*given)
    except SnapshotError as error:
        return reason_of(error)
    return _gone_on(state)


def _gone_on(state: SessionState) -> str:
    """Have the session go on for two frames, and tell its client all that there is to tell."""
    return _loop().run_until_complete(_track(state))


async def _track(state: SessionState) -> str:
    here = _place().bench
    session = here.session(state.session_id, client="other")
    try:
        here.front.tracker.resume(session, state)
        session_message(session.state, session.expires_at).SerializeToString()
        async with session.turn():
            for number in (5, 6):
                frame = here.frame(number)
                result = await here.front.tracker.track(session, frame, await here.front.tracker.prepare(session, frame))
                assert result.error is None or result.error.reason != "INTERNAL", result.error
                result_message(result).SerializeToString()
        assert here.front.resume_tokens.of(session) is not None
    finally:
        await here.front.table.end(session, ServiceError("the end"))
    return SERVED


TOKENS = Subject("resume tokens", token, judge_token)
STORED = Subject("stored sessions", stored, judge_stored)

"""Certificates and tokens that are renewed while streams run, by the real service."""

import asyncio
import re
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from certificates import Authority, Identity
from grpc import aio
from processes import PATIENCE_SECONDS
from secured import TOKENS, Secured, open_session, secured, tracked, write_tokens

from mixformer.tracking.v1 import tracking_pb2 as pb
from mixformer.tracking.v1.tracking_pb2_grpc import TrackingServiceStub
from service.access import Access

PROCESSED = pb.FRAME_OUTCOME_PROCESSED


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with secured(tmp_path_factory.mktemp("rotation")) as started:
        yield started


@pytest_asyncio.fixture(autouse=True)
async def as_at_the_start(house: Secured) -> None:
    """Every test finds the files that the service was started with, and the service has seen them."""
    write_tokens(house.folder, TOKENS.items())
    house.authority.server().write(house.folder, "server")
    (house.folder / "ca.crt").write_bytes(house.authority.certificate)
    for token in TOKENS.values():
        await comes(house, house.access(token), grpc.StatusCode.OK)


async def outcome(house: Secured, access: Access) -> grpc.StatusCode:
    """What comes of one call on a new connection."""
    async with access.channel(house.running.address, (("grpc.use_local_subchannel_pool", 1),)) as channel:
        call: Any = TrackingServiceStub(channel).GetServerInfo(pb.GetServerInfoRequest(), metadata=access.metadata)
        code: grpc.StatusCode = await call.code()
        return code


async def comes(house: Secured, access: Access, code: grpc.StatusCode) -> None:
    """Wait until a call ends like this."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await outcome(house, access) is not code:
            await asyncio.sleep(0.1)


async def says(house: Secured, pattern: str) -> None:
    """Wait for the log's words; whoever asks has the service look at its files meanwhile."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not re.search(pattern, house.everything_written()):
        assert time.monotonic() < deadline, house.everything_written()
        await outcome(house, house.access(TOKENS["cam"]))
        await asyncio.sleep(0.1)


async def test_a_token_is_replaced_while_its_stream_runs_and_taking_it_away_ends_the_stream(house: Secured) -> None:
    old, new = house.access(TOKENS["cam"]), house.access("the-new-token-of-the-camera")
    async with old.channel(house.running.address) as channel:
        call, session_id = await open_session(channel, old.token)
        assert (await tracked(call, 0)).outcome == PROCESSED
        write_tokens(house.folder, [("cam", old.token), ("cam", new.token)])
        await comes(house, new, grpc.StatusCode.OK)
        assert (await tracked(call, 1)).outcome == PROCESSED
        write_tokens(house.folder, [("cam", new.token)])
        await comes(house, old, grpc.StatusCode.UNAUTHENTICATED)
        with pytest.raises(aio.AioRpcError):
            await tracked(call, 2)
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
        # The same client by its new token: it finds its session and its target.
        again, same_id = await open_session(channel, new.token, session_id)
        assert same_id == session_id
        result = await tracked(again, 3)
        assert (result.outcome, len(result.targets)) == (PROCESSED, 1)


async def test_a_token_that_becomes_another_clients_ends_the_stream_of_the_first(house: Secured) -> None:
    async with house.access().channel(house.running.address) as channel:
        call, _ = await open_session(channel, TOKENS["desk"])
        write_tokens(house.folder, [("cam", TOKENS["cam"]), ("thief", TOKENS["desk"])])
        await comes(house, house.access(TOKENS["rival"]), grpc.StatusCode.UNAUTHENTICATED)
        with pytest.raises(aio.AioRpcError):
            await tracked(call, 0)
        assert "the token is no longer that of desk" in str(await call.details())


async def test_a_token_file_that_is_broken_locks_nobody_out(house: Secured) -> None:
    write_tokens(house.folder, [("cam", "short-secret")])
    await says(house, r"tokens changed and cannot be used, the former content stays: line 1: the token has 12 characters")
    assert "short-secret" not in house.everything_written()


async def test_a_certificate_is_renewed_by_another_authority_while_a_stream_runs(house: Secured) -> None:
    old, renewed = house.access(TOKENS["cam"]), Authority("the next authority")
    async with old.channel(house.running.address) as channel:
        call, _ = await open_session(channel, old.token)
        assert (await tracked(call, 0)).outcome == PROCESSED
        # For a moment the certificate is new and the key is the old one.
        identity = renewed.server()
        Identity(identity.certificate, (house.folder / "server.key").read_bytes()).write(house.folder, "server")
        await says(house, "changed and cannot be used, the former content stays: .*mismatch")
        assert await outcome(house, old) is grpc.StatusCode.OK
        identity.write(house.folder, "server")
        new = house.access(TOKENS["cam"], renewed)
        await comes(house, new, grpc.StatusCode.OK)
        assert await outcome(house, old) is grpc.StatusCode.UNAVAILABLE, "a new connection gets the new certificate"
        assert (await tracked(call, 1)).outcome == PROCESSED


async def test_clients_of_a_new_authority_are_let_in_and_those_of_the_old_one_no_more(house: Secured) -> None:
    following = Authority("of clients")
    newcomer = following.client("newcomer")
    credentials = grpc.ssl_channel_credentials(house.authority.certificate, newcomer.key, newcomer.certificate)
    access = Access(credentials, token=TOKENS["cam"])
    assert await outcome(house, access) is grpc.StatusCode.UNAVAILABLE
    (house.folder / "ca.crt").write_bytes(following.certificate)
    await comes(house, access, grpc.StatusCode.OK)
    assert await outcome(house, house.access(TOKENS["cam"])) is grpc.StatusCode.UNAVAILABLE

"""The gRPC port is not opened with files that cannot be used; what a server says that lets everybody in, and that a client has gone."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from certificates import Authority, Identity
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from grpc import aio
from processes import served
from secured import open_session, tracked

from mixformer.tracking.v1 import tracking_pb2 as pb
from mixformer.tracking.v1.tracking_pb2_grpc import TrackingServiceStub
from service.access import Access
from service.config import ServeSettings
from service.front.access.tokens import Tokens
from service.front.listener import StartError, listen, load_tokens
from service.front.wire.status import Context, answered


def settings(folder: Path, identity: Identity, client_ca: str | None = None) -> ServeSettings:
    """A server with these files, and the authority's where `client_ca` is what stands in it."""
    certificate, key = identity.write(folder, "server")
    given = ServeSettings(listen="127.0.0.1:0", tls_cert=str(certificate), tls_key=str(key))
    if client_ca is None:
        return given
    (folder / "ca.crt").write_text(client_ca)
    return replace(given, tls_client_ca=str(folder / "ca.crt"))


async def refusal(given: ServeSettings) -> str:
    """Why the port is not opened."""
    with pytest.raises(StartError) as caught:
        listen(given, Tokens(ServeSettings()), lambda: None)
    return str(caught.value)


async def test_certificates_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    one, other = Authority().server(), Authority().server()
    locked = load_pem_private_key(one.key, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
    )
    assert "mismatch" in await refusal(settings(tmp_path, Identity(one.certificate, other.key)))
    assert "PEM" in await refusal(settings(tmp_path, Identity(b"no certificate", one.key)))
    assert "PEM" in await refusal(settings(tmp_path, Identity(one.certificate, locked)))
    assert "certificate" in await refusal(settings(tmp_path, one, "no authority"))
    missing = await refusal(replace(settings(tmp_path, one), tls_key=str(tmp_path / "absent.key")))
    assert "No such file" in missing and f"tls_key='{tmp_path}/absent.key'" in missing


@pytest.mark.parametrize("content", [None, "cam short-secret"])
def test_tokens_that_cannot_be_used_are_named_by_their_file_and_line(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "tokens"
    if content is not None:
        path.write_text(content)
    with pytest.raises(StartError, match=f"token_file='{path}'") as caught:
        load_tokens(ServeSettings(token_file=str(path)))
    assert ("No such file" if content is None else "line 1") in str(caught.value)
    assert "short-secret" not in str(caught.value)


async def test_a_server_that_lets_everybody_in_says_so_at_its_start(tmp_path: Path) -> None:
    with served(tmp_path, "--listen", "0.0.0.0:0", "--insecure", "--device", "simulated") as running:
        words = "insecure: 0.0.0.0:0 lets other machines in without TLS (tls_cert, tls_key) and knowing them"
        assert [words in line for line in running.log.read_text().splitlines() if "service.server: insecure" in line] == [True]
        port = running.address.rpartition(":")[2]
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = TrackingServiceStub(channel).GetServerInfo(pb.GetServerInfoRequest())
            assert await call.code() is grpc.StatusCode.OK


async def test_by_tls_and_certificates_others_are_let_in_and_told_apart_by_their_subject(tmp_path: Path) -> None:
    authority = Authority()
    certificate, key = authority.server().write(tmp_path, "server")
    (tmp_path / "ca.crt").write_bytes(authority.certificate)
    tls = ("--tls-cert", str(certificate), "--tls-key", str(key), "--tls-client-ca", str(tmp_path / "ca.crt"))
    with served(tmp_path, "--listen", "0.0.0.0:0", *tls, "--device", "simulated") as running:
        assert "insecure" not in running.log.read_text()
        address = f"127.0.0.1:{running.address.rpartition(':')[2]}"

        async def sees(name: str) -> list[str]:
            """The sessions that a client with a certificate of this name has."""
            async with client(authority, name).channel(address) as channel:
                answer = await TrackingServiceStub(channel).ListSessions(pb.ListSessionsRequest())
                return [each.session_id for each in answer.sessions]

        async with client(authority, "alice").channel(address) as channel:
            call, session_id = await open_session(channel, "")
            await tracked(call, 0)
            assert await sees("alice") == [session_id], "another certificate, the same subject: so it was renewed"
            assert await sees("bob") == []


def client(authority: Authority, name: str) -> Access:
    """Access with a certificate that was just made."""
    mine = authority.client(name)
    return Access(grpc.ssl_channel_credentials(authority.certificate, mine.key, mine.certificate))


async def test_a_client_that_goes_while_its_answer_goes_out_is_no_fault_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    ends: asyncio.Queue[str] = asyncio.Queue()
    writing = asyncio.Event()

    async def stream(_: Any, context: Context) -> None:
        async def work() -> None:
            writing.set()
            await context.write(bytes(2**25))  # there is no room for so much on the way to a client that does not read

        await answered(context, work(), ends.put_nowait)

    server, address = listen(ServeSettings(listen="127.0.0.1:0"), Tokens(ServeSettings()), lambda: None)
    methods: Any = {"Stream": grpc.stream_stream_rpc_method_handler(stream)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", methods),))
    await server.start()
    async with aio.insecure_channel(address) as channel:
        for _ in range(10):  # of two, one finds its write failed before it is cancelled
            writing.clear()
            call: Any = channel.stream_stream("/test/Stream")()
            await writing.wait()
            call.cancel()
            async with asyncio.timeout(5):
                assert await ends.get() == "cancelled"
    await server.stop(0)
    assert caplog.messages == []

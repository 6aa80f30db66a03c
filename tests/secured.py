"""The real service with TLS, client certificates and tokens: its files, and clients of it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from certificates import Authority, Identity, replace
from grpc import aio
from pictures import encoded, scene
from processes import Served, served

from mixformer.tracking.v1 import tracking_pb2 as pb
from mixformer.tracking.v1.tracking_pb2_grpc import TrackingServiceStub
from service.access import Access

TOKENS = {"cam": "token-of-the-camera-1", "desk": "token-of-the-desk-22", "rival": "token-of-a-rival-333"}
FROM_ENVIRONMENT = "token-of-the-environment"
RESUME_KEY = "0123456789abcdef" * 4
GOOD = encoded(scene())
START = pb.TargetCommand(ensure=pb.BoundingBox(x=100, y=80, width=40, height=40))

Call = aio.StreamStreamCall[pb.TrackStreamRequest, pb.TrackStreamResponse]


@dataclass(frozen=True)
class Secured:
    """The running service, the folder of its files, and who signed the certificates."""

    running: Served
    folder: Path
    authority: Authority
    client: Identity

    def access(self, token: str = "", trusted: Authority | None = None) -> Access:
        """How a client with a certificate connects; `trusted` signed the server's."""
        return Access(
            grpc.ssl_channel_credentials((trusted or self.authority).certificate, self.client.key, self.client.certificate),
            token=token,
        )

    def everything_written(self) -> str:
        """What the service's processes have logged."""
        return self.running.log.read_text()


async def open_session(channel: aio.Channel, token: str, session_id: str = "") -> tuple[Call, str]:
    """A stream with its session's id."""
    call: Call = TrackingServiceStub(channel).TrackStream(metadata=Access(token=token).metadata)
    await call.write(pb.TrackStreamRequest(config=pb.StreamConfig(session_id=session_id)))
    event = await call.read()
    assert isinstance(event, pb.TrackStreamResponse)
    return call, event.session.session_id


async def tracked(call: Call, number: int) -> pb.FrameResult:
    """The result of one frame; the first starts the target."""
    await call.write(pb.TrackStreamRequest(frame=pb.Frame(frame_number=number, encoded=GOOD), targets=[START]))
    event = await call.read()
    assert isinstance(event, pb.TrackStreamResponse)
    return event.result


def write_tokens(folder: Path, tokens: Iterable[tuple[str, str]]) -> None:
    """Put a file of these tokens in the place of the one before."""
    replace(folder / "tokens", "".join(f"{name} {token}\n" for name, token in tokens).encode())


@contextmanager
def secured(folder: Path, *flags: str) -> Iterator[Secured]:
    """The service on the simulated device, everything asked of its callers, every word logged."""
    authority = Authority()
    certificate, key = authority.server().write(folder, "server")
    ca = folder / "ca.crt"
    ca.write_bytes(authority.certificate)
    write_tokens(folder, TOKENS.items())
    (folder / "keys").write_text(f"first {RESUME_KEY}\n")
    tls = ("--tls-cert", str(certificate), "--tls-key", str(key), "--tls-client-ca", str(ca))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIXFORMER_TOKENS", f"shell {FROM_ENVIRONMENT}")
        with served(
            folder,
            *tls,
            "--token-file",
            str(folder / "tokens"),
            "--token-keys",
            str(folder / "keys"),
            "--device",
            "simulated",
            "--log-level",
            "debug",
            *flags,
        ) as running:
            yield Secured(running, folder, authority, authority.client("camera"))

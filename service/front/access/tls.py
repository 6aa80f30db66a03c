"""TLS of the gRPC port, from files that may be renewed while it is open."""

import ssl
from pathlib import Path

import grpc

from service.config import ServeSettings
from service.watched import Watched


def server_credentials(settings: ServeSettings) -> grpc.ServerCredentials:
    """The port's certificate, and whom it asks for theirs. Every new connection gets the newest that the files held.

    Raises OSError and ValueError where the files cannot be used. Connections that are open keep what they were opened with.
    """
    names = (settings.tls_cert, settings.tls_key, *filter(None, [settings.tls_client_ca]))
    cert, key, *_ = paths = tuple(map(Path, names))

    def parse(chain: bytes, private_key: bytes, *client_ca: bytes) -> grpc.ServerCertificateConfiguration:
        _check(cert, key, *client_ca)
        return grpc.ssl_server_certificate_configuration([(private_key, chain)], *client_ca)

    watched = Watched(paths, parse)
    given = watched.value

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        """Asked at every handshake, in a thread of gRPC's; None: as before."""
        nonlocal given
        before, given = given, watched.value
        return None if given is before else given

    return grpc.dynamic_ssl_server_credentials(
        given,
        renewed,  # type: ignore[arg-type]  # the published stubs leave out that it may give None
        require_client_authentication=bool(settings.tls_client_ca),
    )


def _check(cert: Path, key: Path, *client_ca: bytes) -> None:
    """gRPC takes anything and then refuses every connection. Raises ssl.SSLError, an OSError, and ValueError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # With an empty password, so that an encrypted key is an error and not a question on the terminal.
    context.load_cert_chain(cert, key, password="")
    for authorities in client_ca:
        context.load_verify_locations(cadata=authorities.decode(errors="replace"))

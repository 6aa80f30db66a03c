"""The gRPC port: how it is opened, and who gets through."""

import logging
from collections.abc import Callable

import grpc
from grpc import aio

from service.config import ServeSettings
from service.front.access.authentication import Authentication
from service.front.access.tls import server_credentials
from service.front.access.tokens import Tokens
from service.front.calls.malformed import Malformed

# Calls of `Health/Check` at once.
_PROBES = 100


class StartError(Exception):
    """The front cannot start; the message says why."""


def listen(settings: ServeSettings, tokens: Tokens, on_refused: Callable[[], None]) -> tuple[aio.Server, str]:
    """The server and the HOST:PORT that it got, nothing served yet. `on_refused`: a call came without a good token.

    Raises StartError.
    """
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_news)
    limits = settings.limits
    silence_ms = round(1000 * settings.keepalive_seconds)
    options = [
        # A second server on the port is an error, not a rival for its connections.
        ("grpc.so_reuseport", 0),
        # A frame over max_frame_bytes is refused in band, and the stream goes on; beyond this gRPC ends it.
        ("grpc.max_receive_message_length", 2 * limits.max_frame_bytes),
        # A client that vanished without a word is found within one and a half times this, one that never speaks within once.
        ("grpc.keepalive_time_ms", silence_ms),
        ("grpc.keepalive_timeout_ms", silence_ms // 2),
        # Of the question itself, a minute by default: gRPC does not always start the clock above.
        ("grpc.http2.ping_timeout_ms", silence_ms // 2),
        ("grpc.server_handshake_timeout_ms", silence_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        # Clients may look after their side as often as this.
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ]
    server = aio.server(
        interceptors=[*([Authentication(tokens, on_refused)] if tokens.are_required else []), Malformed()],
        options=options,
        # gRPC's own bound on calls under way, each with a message in memory: streams, as many calls that watch health or ask
        # what is here (endless.py), one call for every session, and probes.
        maximum_concurrent_rpcs=2 * limits.max_streams + limits.max_sessions + _PROBES,
    )
    return server, _open(server, settings)


def load_tokens(settings: ServeSettings) -> Tokens:
    """The tokens that callers must have. Raises StartError."""
    try:
        return Tokens(settings)
    except (OSError, ValueError) as error:
        raise StartError(f"token_file={settings.token_file!r} or MIXFORMER_TOKENS: {error}") from error


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of gRPC's belongs into the log. It has a traceback for every client that goes, or whose time is over, just as its
    answer goes out."""
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, aio.InternalError) and str(error).startswith('Failed "execute_batch"'))


def _open(server: aio.Server, settings: ServeSettings) -> str:
    wanted = settings.front_address
    try:
        if settings.tls_cert:
            port = server.add_secure_port(str(wanted), _credentials(settings))
        else:
            port = server.add_insecure_port(str(wanted))
    except RuntimeError as error:
        raise StartError(f"listen={wanted}: the port cannot be opened: {error}") from error
    return str(wanted._replace(port=port))


def _credentials(settings: ServeSettings) -> grpc.ServerCredentials:
    try:
        return server_credentials(settings)
    except (OSError, ValueError) as error:
        names = (f"{name}={getattr(settings, name)!r}" for name in ("tls_cert", "tls_key", "tls_client_ca"))
        raise StartError(f"{', '.join(names)}: {error}") from error

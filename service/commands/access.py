"""The flags that say how a command connects to its server, as `mixformer track`, `loadtest` and `healthcheck` share them."""

import argparse
import os
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path

import grpc

from service.access import Access
from service.commands.command import CommandError
from service.config import is_loopback

TOKEN_VARIABLE = "MIXFORMER_CLIENT_TOKEN"


def access_of(arguments: argparse.Namespace) -> Access:
    """What the flags and the environment give. Raises CommandError where they do not fit together, OSError for a file."""
    has_tls = arguments.tls or arguments.tls_ca is not None
    if (arguments.tls_cert is None) != (arguments.tls_key is None):
        raise CommandError("--tls-cert and --tls-key belong together", exit_code=2)
    if not has_tls and (arguments.tls_cert is not None or arguments.tls_name):
        raise CommandError("--tls-cert and --tls-name need --tls or --tls-ca", exit_code=2)
    token = _token(arguments.token_file)
    if token and not has_tls and not is_loopback(arguments.server.rpartition(":")[0].strip("[]")):
        raise CommandError(f"the token would go to {arguments.server} in the clear: give --tls or --tls-ca", exit_code=2)
    return Access(_credentials(arguments) if has_tls else None, arguments.tls_name, token)


def _credentials(arguments: argparse.Namespace) -> grpc.ChannelCredentials:
    authorities, key, certificate = map(_content, (arguments.tls_ca, arguments.tls_key, arguments.tls_cert))
    # gRPC takes anything and then fails every connection.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if arguments.tls_ca is not None:
        _check(partial(context.load_verify_locations, arguments.tls_ca), arguments.tls_ca)
    if arguments.tls_cert is not None:
        # With an empty password, so that an encrypted key is an error and not a question on the terminal.
        load = partial(context.load_cert_chain, arguments.tls_cert, arguments.tls_key, password="")
        _check(load, arguments.tls_cert, arguments.tls_key)
    return grpc.ssl_channel_credentials(authorities, key, certificate)


def _check(load: Callable[[], None], *paths: Path) -> None:
    try:
        load()
    except ssl.SSLError as error:
        raise CommandError(f"{' and '.join(map(str, paths))} cannot be used: {error.reason or error}", exit_code=2) from error


def _content(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


def _token(path: Path | None) -> str:
    source, content = TOKEN_VARIABLE, os.environ.get(TOKEN_VARIABLE, "")
    if path is not None:
        source, content = str(path), path.read_text(errors="replace")
    words = content.split()
    if len(words) > 1 or (path is not None and not words) or not content.isascii():
        raise CommandError(f"{source} must hold one token and nothing else; it holds {len(words)} words", exit_code=2)
    return words[0] if words else ""

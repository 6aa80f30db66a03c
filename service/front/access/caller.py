"""Who calls."""

from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import unquote

from service.errors import Unauthenticated
from service.front.access.tokens import Tokens
from service.front.wire.status import Context

_LOCAL = "local"


class Proof(StrEnum):
    """By what a caller is known."""

    TOKEN = "token"
    CERTIFICATE = "certificate"
    ADDRESS = "address"


class Caller(NamedTuple):
    """Who calls. Two calls are of one client where this is equal; sessions and limits belong to it."""

    proof: Proof
    name: str

    def __str__(self) -> str:
        """What owns a session (`Session.client`): the same for the same client on every server, and never a secret."""
        return f"{self.proof}:{self.name}"


class Callers:
    """Tells callers apart: by the name of their token, else the subject of their certificate, else the host they call from."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def of(self, context: Context) -> Caller:
        """Who calls. Raises Unauthenticated where tokens are required and the call has none that is good."""
        if self._tokens.are_required:
            return Caller(Proof.TOKEN, self._tokens.owner(context.invocation_metadata() or ()))
        return _without_token(context)

    def recheck(self, context: Context) -> Callable[[], None]:
        """What raises Unauthenticated once the caller's token is taken away or becomes another's; for streams, frame by frame."""
        caller, version = self.of(context), self._tokens.version

        def check() -> None:
            nonlocal version
            if self._tokens.version is not version:
                version = self._tokens.version
                if self.of(context) != caller:
                    raise Unauthenticated(f"the token is no longer that of {caller.name}")

        return check


def _without_token(context: Context) -> Caller:
    # Not the port: a client that reconnects finds its sessions again. Behind one proxy, all are one client.
    certified = _certified(context)
    if certified:
        return Caller(Proof.CERTIFICATE, certified)
    # "ipv4:10.0.0.1:50724", "ipv6:%5B::1%5D:50724" or "unix:"
    kind, _, address = unquote(context.peer()).partition(":")
    host = address.rpartition(":")[0]
    return Caller(Proof.ADDRESS, _LOCAL if kind == "unix" or host in ("127.0.0.1", "[::1]") else host)


def _certified(context: Context) -> str:
    """The subject of the caller's certificate, or its alternative names where it has no subject; empty without a certificate."""
    subject = b",".join(context.auth_context().get("x509_subject", ()))
    return (subject or b",".join(context.peer_identities() or ())).decode(errors="replace")

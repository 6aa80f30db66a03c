"""Who calls, and which session they mean."""

from urllib.parse import unquote

from service.errors import InvalidRequest
from service.front.status import Context

SESSION_METADATA = "x-session-id"
_LOCAL = "local"


def client_of(context: Context) -> str:
    """The caller whose sessions a call may see: the identity of its certificate, else the host it calls from.

    Not the port: a client that reconnects finds its sessions again. Behind one proxy, all are one client.
    """
    identities = context.peer_identities()
    if identities:
        return b",".join(identities).decode(errors="replace")
    # "ipv4:10.0.0.1:50724", "ipv6:%5B::1%5D:50724" or "unix:"
    kind, _, address = unquote(context.peer()).partition(":")
    host = address.rpartition(":")[0]
    if kind == "unix" or host in ("127.0.0.1", "[::1]"):
        return _LOCAL
    return host


def session_named(requested: str, context: Context) -> str:
    """The session id of the request, or else of its metadata, which proxies can route by; empty where neither has one.

    Raises InvalidRequest where they differ: a proxy would have sent the call to the other one's server.
    """
    metadata = dict(context.invocation_metadata() or ())
    routed = metadata.get(SESSION_METADATA, "")
    named = routed if isinstance(routed, str) else ""
    if requested and named and requested != named:
        raise InvalidRequest(f"session_id {requested!r} differs from {named!r} in metadata {SESSION_METADATA}")
    return requested or named

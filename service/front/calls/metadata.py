"""What a call says besides its messages: which session it means, and which trace it belongs to."""

from service.errors import InvalidRequest
from service.front.tracking.session import check_id
from service.front.wire.status import Context

SESSION_METADATA = "x-session-id"
_TRACE_METADATA = "traceparent"


def traceparent_of(context: Context) -> str:
    """The trace that a call belongs to by its metadata (W3C Trace Context); empty where it names none."""
    found = dict(context.invocation_metadata() or ()).get(_TRACE_METADATA, "")
    return found if isinstance(found, str) else ""


def session_named(requested: str, context: Context) -> str:
    """The session id of the request, or else of its metadata, which proxies can route by; empty where neither has one.

    Raises InvalidRequest where no session can have that id, and where the two differ: a proxy would have sent the call to the
    other one's server.
    """
    metadata = dict(context.invocation_metadata() or ())
    routed = metadata.get(SESSION_METADATA, "")
    named = routed if isinstance(routed, str) else ""
    check_id(requested)
    check_id(named)
    if requested and named and requested != named:
        raise InvalidRequest(f"session_id {requested!r} differs from {named!r} in metadata {SESSION_METADATA}")
    return requested or named

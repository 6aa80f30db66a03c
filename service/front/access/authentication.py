"""Refuses calls without a good token before any of their messages is read."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from grpc import aio

from service.errors import ServiceError, Unauthenticated
from service.front.access.tokens import Tokens
from service.front.wire.status import Context, abort

# Probes carry no token. Not `Watch`, a stream without end: whoever has no token must not take up calls.
OPEN_METHODS = frozenset({"/grpc.health.v1.Health/Check"})

# grpc's class knows its type parameters only in the stubs.
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Authentication(aio.ServerInterceptor):
    """Stands before every method of the server, reflection included, whatever is added to it later."""

    def __init__(self, tokens: Tokens, on_refused: Callable[[], None]) -> None:
        """`on_refused` is told of each call that is refused."""
        self._tokens = tokens
        self._on_refused = on_refused

    async def intercept_service(
        self, continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]]", details: grpc.HandlerCallDetails
    ) -> "_Handler | None":
        """The method, or one that only says why it is refused."""
        if details.method not in OPEN_METHODS:
            try:
                self._tokens.owner(details.invocation_metadata)
            except Unauthenticated as error:
                self._on_refused()
                return _refusal(error)
        return await continuation(details)


def _refusal(error: ServiceError) -> _Handler:
    async def refuse(requests: Any, context: Context) -> None:
        await abort(context, error)

    # A stream both ways ends at once, also for calls of one message: it waits for none.
    return grpc.stream_stream_rpc_method_handler(refuse)

"""Messages that protobuf cannot read: refused as the request of a client that is wrong, not as a fault of ours."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from service.front.wire.status import MALFORMED, Context, abort

# grpc's class knows its type parameters only in the stubs.
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Malformed(aio.ServerInterceptor):
    """Reads the messages of calls that have only one. gRPC itself would end such a call as UNKNOWN, with the parser's words.

    Streams read theirs themselves: there it is `answered` (status.py) that hears of it.
    """

    async def intercept_service(
        self, continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]]", details: grpc.HandlerCallDetails
    ) -> "_Handler | None":
        """The method, or one that is handed the bytes and reads them for it."""
        handler = await continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler
        return grpc.unary_unary_rpc_method_handler(_reading(handler), None, handler.response_serializer)


def _reading(handler: _Handler) -> Callable[[bytes, Context], Awaitable[Any]]:
    method, read = handler.unary_unary, handler.request_deserializer
    assert method is not None and read is not None

    async def call(received: bytes, context: Context) -> Any:
        try:
            request = read(received)
        except DecodeError:
            await abort(context, MALFORMED.told())
        return await method(request, context)  # type: ignore[arg-type]  # the stubs know only the other server's context

    return call

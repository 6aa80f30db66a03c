"""Messages that protobuf cannot read, or must not: refused as the request of a client that is wrong, not as a fault of ours."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from service.errors import InvalidRequest
from service.front.wire.fields import check_fields, nested_in
from service.front.wire.status import MALFORMED, Context, abort

# grpc's class knows its type parameters only in the stubs.
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Read: TypeAlias = Callable[[bytes], Any]


class Malformed(aio.ServerInterceptor):
    """Has no message read that has more fields than there is to say (fields.py), and reads those of calls that have only one. gRPC
    itself would end such a call as UNKNOWN, with the parser's words.

    Calls of many messages read theirs themselves: there it is `answered` (status.py) that hears of it.
    """

    async def intercept_service(
        self, continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]]", details: grpc.HandlerCallDetails
    ) -> "_Handler | None":
        """The method, or one that is handed the bytes and reads them for it."""
        handler = await continuation(details)
        if handler is None or handler.request_deserializer is None:
            return handler
        read = _checked(handler.request_deserializer)
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(handler.stream_stream, read, handler.response_serializer)
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(_reading(handler.unary_stream, read), None, handler.response_serializer)
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(_reading(handler.unary_unary, read), None, handler.response_serializer)
        return handler


def _checked(read: _Read) -> _Read:
    from_string: Any = read  # of the class of the message
    nested = nested_in(from_string.__self__.DESCRIPTOR)

    def read_checked(received: bytes) -> Any:
        check_fields(received, nested)
        return read(received)

    return read_checked


def _reading(method: Callable[..., Any], read: _Read) -> Callable[[bytes, Context], Awaitable[Any]]:
    """The method, which is handed bytes from now on. One that streams its answers writes them to its context; generators will not do."""

    async def call(received: bytes, context: Context) -> Any:
        try:
            request = read(received)
        except DecodeError:
            await abort(context, MALFORMED.told())
        except InvalidRequest as error:
            await abort(context, error)
        return await method(request, context)

    return call

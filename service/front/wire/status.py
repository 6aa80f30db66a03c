"""How a call ends: with its answer, or with a gRPC status that carries google.rpc.ErrorInfo (reason and domain)."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar

from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from grpc_status import rpc_status

from service.errors import InvalidRequest, ServiceError
from service.front.wire.times import duration

DOMAIN = "mixformer.tracking"
MALFORMED = InvalidRequest("the message cannot be read: its bytes are none of this API's messages")

_log = logging.getLogger(__name__)

Context = aio.ServicerContext[Any, Any]
Answer = TypeVar("Answer")


async def answered(context: Context, work: Awaitable[Answer], count: Callable[[str], None]) -> Answer:
    """The answer of a call. A ServiceError ends it with its status; a fault of ours is logged, and the client is told no more.

    `count` is told how the call ended: `ok`, an error's reason, or `cancelled` where its client left. Cancellation passes
    through: grpc.aio needs it to end the call.
    """
    end = "cancelled"
    try:
        answer = await work
        end = "ok"
        return answer
    except ServiceError as error:
        end = error.reason
        await abort(context, error)
    except DecodeError:  # reading a stream's next message
        end = MALFORMED.reason
        await abort(context, MALFORMED.told())
    except aio.BaseError:
        # gRPC's own. Writing to a client that has just gone may fail before the cancellation comes, and nobody is left to be told.
        raise
    except Exception:  # noqa: BLE001 - gRPC would send the exception's text to the client
        _log.exception("a call failed")
        end = ServiceError.reason
        await abort(context, ServiceError("internal error, see the server's log"))
    finally:
        count(end)


async def abort(context: Context, error: ServiceError) -> NoReturn:
    """End a call with an error's status."""
    details = [_packed(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN))]
    if error.retry_seconds is not None:
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=duration(error.retry_seconds))))
    status = status_pb2.Status(code=error.code.value[0], message=str(error), details=details)
    await context.abort_with_status(rpc_status.to_status(status))


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed

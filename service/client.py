"""The service as a client sees it: a connection, and on it streams, over grpc.aio. A session that outlives them: client_session.py."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Coroutine
from types import TracebackType
from typing import Self, TypeVar, cast

import grpc
from grpc import aio

from mixformer.tracking.v1 import tracking_pb2 as pb
from mixformer.tracking.v1.tracking_pb2_grpc import TrackingServiceStub
from service.access import IN_THE_CLEAR, Access
from service.decode import Payload, RawImage

CALL_TIMEOUT_SECONDS = 10.0
SESSION_METADATA = "x-session-id"
# grpc.aio says this of a call where a write failed, whether or not the server has ended it with a status.
_WRITE_FAILED = "Internal error from Core"
_STATUS_TIMEOUT_SECONDS = 1.0
_CHANNEL_OPTIONS = (
    # Each client has a connection of its own, as the cameras of different places have.
    ("grpc.use_local_subchannel_pool", 1),
    # A server that comes back is found soon: gRPC's own pauses grow to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # One that vanished without a word is found within 15 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)

T = TypeVar("T")

_StreamCall = aio.StreamStreamCall[pb.TrackStreamRequest, pb.TrackStreamResponse]


class ClientError(ConnectionError):
    """The server cannot be reached or ended the call. `code` is its gRPC status."""

    def __init__(self, server: str, code: grpc.StatusCode, details: str | None) -> None:
        super().__init__(f"{server}: {code.name}: {details or 'no details'}")
        self.code = code


class TrackingClient:
    """A connection to one server; use it with `async with`."""

    def __init__(self, server: str, access: Access = IN_THE_CLEAR) -> None:
        """`server` is HOST:PORT. Nothing is sent yet."""
        self.server = server
        self._access = access
        self._channel = access.channel(server, _CHANNEL_OPTIONS)
        self._stub = TrackingServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def server_info(self) -> pb.GetServerInfoResponse:
        """What the server runs, and its limits. Raises ClientError."""
        try:
            return await self._stub.GetServerInfo(
                pb.GetServerInfoRequest(), timeout=CALL_TIMEOUT_SECONDS, metadata=self._access.metadata
            )
        except aio.AioRpcError as error:
            raise ClientError(self.server, error.code(), error.details()) from error

    async def delete_session(self, session_id: str) -> None:
        """Ends a session and gives back what it holds. Raises ClientError."""
        request = pb.DeleteSessionRequest(session_id=session_id)
        try:
            await self._stub.DeleteSession(request, timeout=CALL_TIMEOUT_SECONDS, metadata=self._metadata(session_id))
        except aio.AioRpcError as error:
            raise ClientError(self.server, error.code(), error.details()) from error

    def _metadata(self, session_id: str) -> tuple[tuple[str, str], ...]:
        """Who calls; and by what a proxy sends all calls of a session to one server."""
        return (*self._access.metadata, *(((SESSION_METADATA, session_id),) if session_id else ()))

    async def open_stream(self, config: pb.StreamConfig) -> "TrackingStream":
        """A stream on the session that `config` names, which begins where there is none. Raises ClientError."""
        stream = TrackingStream(self.server, self._stub.TrackStream(metadata=self._metadata(config.session_id)))
        await stream.open(config)
        return stream


class TrackingStream:
    """One stream, until either side ends it."""

    def __init__(self, server: str, call: _StreamCall) -> None:
        self._server = server
        self._call = call
        self._events = aiter(call)
        self._reading = asyncio.Lock()
        # Events from before the end that a failed `send` has read, since the status comes up behind them.
        self._left: deque[pb.TrackStreamResponse] = deque()
        self._end: ClientError | None = None
        self.session = pb.Session()
        call.add_done_callback(self._note_end)

    async def open(self, config: pb.StreamConfig) -> None:
        """Says which session is meant; `session` is what the server granted. Raises ClientError."""
        try:
            async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
                await self.send(pb.TrackStreamRequest(config=config))
                self.session = (await self.receive()).session
        except TimeoutError:
            self.close()
            details = f"no session within {CALL_TIMEOUT_SECONDS:g} s"
            raise ClientError(self._server, grpc.StatusCode.DEADLINE_EXCEEDED, details) from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it from this side, without waiting for what is under way."""
        self._call.cancel()

    async def send(self, request: pb.TrackStreamRequest) -> None:
        """Sends one message; waits while flow control holds the stream back. Raises ClientError."""
        await self._checked(self._call.write(request))

    async def receive(self) -> pb.TrackStreamResponse:
        """The next event. Raises ClientError when the stream ends first."""
        event = self._left.popleft() if self._left else await self._checked(self._next())
        if event is None:
            raise await self._status()
        return event

    async def _next(self) -> pb.TrackStreamResponse | None:
        async with self._reading:
            return await anext(self._events, None)

    async def _checked(self, step: Awaitable[T]) -> T:
        """What a step of the call gives. Raises ClientError where the call is over."""
        try:
            return await step
        except asyncio.CancelledError:
            # Also raised where the server has ended the call as CANCELLED; only then nobody has asked this task to stop.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
        except (aio.AioRpcError, asyncio.InvalidStateError):
            pass
        raise await self._status()

    async def _status(self) -> ClientError:
        """Why the call is over: the server's status, not that a write failed because of it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STATUS_TIMEOUT_SECONDS):
                while self._end is None:
                    with contextlib.suppress(aio.AioRpcError):
                        while event := await self._next():
                            self._left.append(event)
                    await asyncio.sleep(0.001)
                    self._note_end()
        return self._end or ClientError(self._server, grpc.StatusCode.INTERNAL, _WRITE_FAILED)

    def _note_end(self, _call: object = None) -> None:
        """Keeps the first status that is not a failed write's: either may come first, and the call itself has the last."""
        details = _now(self._call.details()) if self._call.done() else _WRITE_FAILED
        if self._end is None and details != _WRITE_FAILED:
            self._end = ClientError(self._server, _now(self._call.code()), details)


def _now(step: Coroutine[object, None, T]) -> T:
    """What a coroutine gives that has nothing to wait for; awaited, it could be late: the status is overwritten in the same turn of the loop."""
    try:
        step.send(None)
    except StopIteration as end:
        return cast(T, end.value)
    raise RuntimeError("it waits")


def to_frame(frame_number: int, payload: Payload) -> pb.Frame:
    """A picture as the API's message."""
    if isinstance(payload, RawImage):
        pixel_format = pb.PixelFormat.ValueType(payload.pixel_format)
        raw = pb.RawImage(data=payload.data, width=payload.width, height=payload.height, pixel_format=pixel_format)
        return pb.Frame(frame_number=frame_number, raw=raw)
    return pb.Frame(frame_number=frame_number, encoded=payload)

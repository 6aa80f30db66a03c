"""The service as a client sees it: a connection, and on it streams of frames, over grpc.aio."""

import asyncio
from collections.abc import Awaitable
from types import TracebackType
from typing import Self, TypeVar

import grpc
from grpc import aio

from mixformer.tracking.v1 import tracking_pb2 as pb
from mixformer.tracking.v1.tracking_pb2_grpc import TrackingServiceStub
from service.decode import Payload, RawImage

CALL_TIMEOUT_SECONDS = 10.0

T = TypeVar("T")

_StreamCall = aio.StreamStreamCall[pb.TrackStreamRequest, pb.TrackStreamResponse]


class ClientError(ConnectionError):
    """The server cannot be reached or ended the call. `code` is its gRPC status."""

    def __init__(self, server: str, code: grpc.StatusCode, details: str | None) -> None:
        super().__init__(f"{server}: {code.name}: {details or 'no details'}")
        self.code = code


class TrackingClient:
    """A connection to one server; use it with `async with`."""

    def __init__(self, server: str) -> None:
        """`server` is HOST:PORT. Nothing is sent yet."""
        self.server = server
        # Each client has a connection of its own, as the cameras of different places have.
        self._channel = aio.insecure_channel(server, options=[("grpc.use_local_subchannel_pool", 1)])
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
            return await self._stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=CALL_TIMEOUT_SECONDS)
        except aio.AioRpcError as error:
            raise ClientError(self.server, error.code(), error.details()) from error

    async def delete_session(self, session_id: str) -> None:
        """Ends a session and gives back what it holds. Raises ClientError."""
        try:
            await self._stub.DeleteSession(pb.DeleteSessionRequest(session_id=session_id), timeout=CALL_TIMEOUT_SECONDS)
        except aio.AioRpcError as error:
            raise ClientError(self.server, error.code(), error.details()) from error

    def stream(self, options: pb.SessionOptions) -> "TrackingStream":
        """A new session with a stream to it."""
        return TrackingStream(self, self._stub.TrackStream(), options)


class TrackingStream:
    """One session, while its stream is open; use it with `async with`: opened on entry, the session deleted on exit."""

    def __init__(self, client: TrackingClient, call: _StreamCall, options: pb.SessionOptions) -> None:
        self._client = client
        self._call = call
        self._options = options
        self._session_id = ""

    async def __aenter__(self) -> Self:
        config = pb.StreamConfig(options=self._options)
        try:
            await self._write(pb.TrackStreamRequest(config=config))
            self._session_id = (await self._read()).session.session_id
        except BaseException:
            self._call.cancel()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call.cancel()
        if kind is None:
            try:
                await self._client.delete_session(self._session_id)
            except ClientError as gone:
                # A session that has no target ends with its stream.
                if gone.code is not grpc.StatusCode.NOT_FOUND:
                    raise

    async def send(self, frame: pb.Frame, commands: list[pb.TargetCommand]) -> None:
        """Sends one frame; waits while flow control holds the stream back. Raises ClientError."""
        await self._write(pb.TrackStreamRequest(frame=frame, targets=commands))

    async def receive(self) -> pb.FrameResult:
        """The next result, in the order of the frames sent. Raises ClientError when the stream ends first."""
        while True:
            event = await self._read()
            if event.HasField("result"):
                return event.result

    async def _write(self, request: pb.TrackStreamRequest) -> None:
        await self._checked(self._call.write(request))

    async def _read(self) -> pb.TrackStreamResponse:
        event = await self._checked(self._call.read())
        if not isinstance(event, pb.TrackStreamResponse):
            raise await self._status()
        return event

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
        return ClientError(self._client.server, await self._call.code(), await self._call.details())


def to_frame(frame_number: int, payload: Payload) -> pb.Frame:
    """A picture as the API's message."""
    if isinstance(payload, RawImage):
        pixel_format = pb.PixelFormat.ValueType(payload.pixel_format)
        raw = pb.RawImage(data=payload.data, width=payload.width, height=payload.height, pixel_format=pixel_format)
        return pb.Frame(frame_number=frame_number, raw=raw)
    return pb.Frame(frame_number=frame_number, encoded=payload)

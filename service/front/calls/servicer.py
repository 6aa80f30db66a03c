"""The TrackingService as gRPC calls it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable
from functools import partial

from mixformer.tracking.v1 import tracking_pb2 as pb
from mixformer.tracking.v1.tracking_pb2_grpc import TrackingServiceServicer
from service.front.calls.convert import frame_of, result_message, session_message
from service.front.calls.door import Door
from service.front.calls.intake import Intake
from service.front.calls.metadata import session_named, traceparent_of
from service.front.calls.options import granted_options
from service.front.calls.streams import Streams
from service.front.frames import Action, Frame
from service.front.front import Front
from service.front.resume.finder import Asked
from service.front.wire.status import Answer, Context, answered

_BEGINS_A_SESSION = {Action.INITIALIZE, Action.ENSURE}

_log = logging.getLogger(__name__)


class TrackingServicer(TrackingServiceServicer):
    """The calls; see the API for what each one does. What fails, ends with its status (status.py)."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._door = Door()
        self.streams = Streams(front, front.settings.limits.max_streams)

    async def drain(self, seconds: float) -> None:
        """Refuse new work, tell the streams, and wait until everybody has left, at most `seconds`."""
        self._door.close()
        telling = asyncio.create_task(self.streams.drain(seconds))
        if not await self._door.wait_until_empty(seconds):
            _log.warning("%d calls are still open after %g s", self._door.inside, seconds)
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)

    # Writes to its context: a generator is not closed when its client leaves.
    async def TrackStream(self, request_iterator: AsyncIterator[pb.TrackStreamRequest], context: Context) -> None:  # type: ignore[override]
        """Many frames in, one result a frame out."""
        await self._answered("TrackStream", context, self._stream(context))

    async def Track(self, request: pb.TrackRequest, context: Context) -> pb.TrackResponse:
        """One frame in, one result out."""
        return await self._answered("Track", context, self._track(request, context))

    async def GetSession(self, request: pb.GetSessionRequest, context: Context) -> pb.GetSessionResponse:
        """One session of the caller."""
        return await self._answered("GetSession", context, self._get_session(request, context))

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Context) -> pb.ListSessionsResponse:
        """The caller's sessions, in pages."""
        return await self._answered("ListSessions", context, self._list_sessions(request, context))

    async def DeleteSession(self, request: pb.DeleteSessionRequest, context: Context) -> pb.DeleteSessionResponse:
        """End a session and give back what it holds."""
        return await self._answered("DeleteSession", context, self._delete_session(request, context))

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Context) -> pb.GetServerInfoResponse:
        """What runs here, and its limits."""
        return await self._answered("GetServerInfo", context, self._server_info())

    async def _answered(self, method: str, context: Context, work: Awaitable[Answer]) -> Answer:
        return await answered(context, work, partial(self._front.metrics.on_call, method))

    async def _stream(self, context: Context) -> None:
        with self._door.enter():
            await self.streams.serve(context)

    async def _track(self, request: pb.TrackRequest, context: Context) -> pb.TrackResponse:
        with self._door.enter(), Intake(self._front.metrics) as intake:
            intake.take()
            frame = frame_of(request.frame, request.targets, self._front.clock.monotonic(), traceparent_of(context))
            asked = self._asked(request, frame, context)
            session, is_new, resume = await self._front.finder.open(asked)
            try:
                async with session.turn():
                    if resume is not None:
                        self._front.tracker.resume(session, resume)
                    if request.HasField("options"):
                        self._front.tracker.set_options(session, asked.options)
                    prepared = await self._front.tracker.prepare(session, frame)
                    result = await self._front.tracker.track(session, frame, prepared)
                    intake.settle()
                    token = self._front.resume_tokens.after(session, result)
            finally:
                if is_new:
                    await self._front.table.end_unused(session)
            return pb.TrackResponse(session_id=session.session_id, result=result_message(result), resume_token=token)

    def _asked(self, request: pb.TrackRequest, frame: Frame, context: Context) -> Asked:
        """The session that is meant: only a frame that starts a target begins one."""
        client, session_id = self._client(context), session_named(request.session_id, context)
        begins = any(command.action in _BEGINS_A_SESSION for command in frame.commands)
        options = granted_options(request.options, self._front)
        return Asked(client, session_id, request.resume_token, options, is_stream=False, may_begin=begins)

    def _client(self, context: Context) -> str:
        return str(self._front.callers.of(context))

    async def _get_session(self, request: pb.GetSessionRequest, context: Context) -> pb.GetSessionResponse:
        named = session_named(request.session_id, context)
        state, seconds_left = await self._front.finder.look(self._client(context), named)
        return pb.GetSessionResponse(session=session_message(state, self._front.clock.wall() + seconds_left))

    async def _list_sessions(self, request: pb.ListSessionsRequest, context: Context) -> pb.ListSessionsResponse:
        page = self._front.table.page(self._client(context), request.page_size, request.page_token)
        shown = [session_message(session.state, session.expires_at) for session in page.sessions]
        return pb.ListSessionsResponse(sessions=shown, next_page_token=page.next_token)

    async def _delete_session(self, request: pb.DeleteSessionRequest, context: Context) -> pb.DeleteSessionResponse:
        await self._front.finder.delete(self._client(context), session_named(request.session_id, context))
        return pb.DeleteSessionResponse()

    async def _server_info(self) -> pb.GetServerInfoResponse:
        hello, settings, limits = self._front.hello, self._front.settings, self._front.settings.limits
        return pb.GetServerInfoResponse(
            version=self._front.version,
            model_variant=hello.variant,
            weights_sha256=hello.weights_sha256,
            device=hello.device,
            precision=hello.precision,
            max_frame_bytes=limits.max_frame_bytes,
            max_frame_pixels=limits.max_frame_pixels,
            max_targets_per_session=limits.max_targets_per_session,
            max_sessions=limits.max_sessions,
            max_client_sessions=limits.max_client_sessions,
            max_client_frames_per_second=limits.max_client_frames_per_second,
            max_client_bytes_per_second=limits.max_client_bytes_per_second,
            max_resume_token_bytes=limits.max_resume_token_bytes if self._front.resume_tokens.are_given else 0,
            snapshot_interval_frames=settings.store_interval_frames if settings.store else 0,
        )

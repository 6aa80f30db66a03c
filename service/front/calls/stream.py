"""One open stream: its frames in, one result a frame out, in order.

A reader fills the inbox; the answering loop takes one frame at a time from it. Under BLOCK the next frame is decoded while
one is tracked, so a stream holds two pictures at most; none for long while its client does not take a result. Under
DROP_OLDEST it is not: which frame is next is only known when the last one is done.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mixformer.tracking.v1 import tracking_pb2 as pb
from service.errors import Draining, FrameSuperseded, InvalidRequest, ServiceError
from service.front.calls.convert import draining_message, frame_of, result_message, session_message
from service.front.calls.inbox import Inbox
from service.front.calls.intake import Intake
from service.front.frames import Frame
from service.front.front import Front
from service.front.tracking.budget import Decoded
from service.front.tracking.options import OverloadPolicy
from service.front.tracking.session import Session

# None at the end of the client's side.
Read = Callable[[], Awaitable[pb.TrackStreamRequest | None]]
Send = Callable[[pb.TrackStreamResponse], Awaitable[None]]

_LAST_WRITE_SECONDS = 1.0
# For so long a picture waits for a result to be written. To decode it twice costs less than what it keeps from others.
_HELD_SECONDS = 1.0


@dataclass
class _Prepared:
    frame: Frame
    # None: it was decoded, and let go of.
    picture: Decoded | ServiceError | None


class Stream:
    """A stream that holds its session."""

    def __init__(self, session: Session, front: Front, read: Read, send: Send, traceparent: str = "") -> None:
        """`traceparent`: the trace that the client has its frames belong to, empty for none."""
        self._session = session
        self._tracker = front.tracker
        self._tokens = front.resume_tokens
        self._clock = front.clock
        self._intake = Intake(front.metrics)
        self._read = read
        self._send_event = send
        self._traceparent = traceparent
        # Set once the client has been told that the server goes away.
        self._drain_told = asyncio.Event()
        self._sending = asyncio.Lock()
        self._is_live = session.options.overload_policy is OverloadPolicy.DROP_OLDEST
        self._inbox = Inbox(newest_wins=self._is_live)
        # Digests of the config that the stream began with: it may have a token of megabytes.
        self._configs: frozenset[bytes] = frozenset()

    async def run(self) -> None:
        """Answer everything that is read, the stream's first message too. Raises ServiceError where the stream ends before its client
        ends it.
        """
        granted = session_message(self._session.state, self._session.expires_at)
        await self._send(pb.TrackStreamResponse(session=granted))
        with self._intake:
            await self._serve()

    async def drain(self, seconds: float, why: str = "the server is going away") -> None:
        """Say that the stream ends within `seconds`, read no more, and end once the frames in hand have their results, with a
        last resume token.
        """
        await self._inbox.close(Draining(why))
        try:
            await self._send(pb.TrackStreamResponse(draining=draining_message(seconds)))
        finally:
            self._drain_told.set()

    async def _serve(self) -> None:
        reader = asyncio.create_task(self._fill())
        try:
            await self._answer_all()
            # What ended the reading comes out only now: the frames before it have their results.
            await reader
        except Draining:
            await self._drain_told.wait()
            await self._send_token(self._tokens.of(self._session))
            raise
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _fill(self) -> None:
        try:
            while (request := await self._read()) is not None and not self._inbox.is_closed:
                self._check_config(request)
                frame = self._frame_in(request)
                # Neither stays while the stream waits: a parsed message may take many times its bytes.
                del request
                if frame is not None:
                    await self._inbox.put(frame)
                del frame
        finally:
            await self._inbox.close()

    def _frame_in(self, request: pb.TrackStreamRequest) -> Frame | None:
        """The frame of a message, None where it has but a config."""
        if request.HasField("config") and not request.HasField("frame") and not request.targets:
            return None
        self._intake.take()
        return frame_of(request.frame, request.targets, self._clock.monotonic(), self._traceparent)

    def _check_config(self, request: pb.TrackStreamRequest) -> None:
        if not request.HasField("config"):
            return
        if not self._configs:
            named = pb.StreamConfig()
            named.CopyFrom(request.config)
            named.session_id = self._session.session_id
            self._configs = frozenset((_digest(request.config), _digest(named)))
        if _digest(request.config) not in self._configs:
            raise InvalidRequest("the config of a stream cannot change: open another stream on the session")

    async def _answer_all(self) -> None:
        upcoming: asyncio.Task[_Prepared | None] | None = None
        try:
            while (prepared := await (upcoming or self._next())) is not None:
                upcoming = None if self._is_live else asyncio.create_task(self._next())
                picture = prepared.picture or await self._tracker.prepare(self._session, prepared.frame, is_again=True)
                result = await self._tracker.track(self._session, prepared.frame, picture)
                self._intake.settle()
                # An idle stream must not keep its last picture while it waits for the next one.
                del prepared, picture
                with _held_briefly(upcoming):
                    await self._send(pb.TrackStreamResponse(result=result_message(result)))
                    await self._send_token(self._tokens.after(self._session, result))
        finally:
            if upcoming is not None:
                upcoming.cancel()
                await asyncio.gather(upcoming, return_exceptions=True)

    async def _next(self) -> _Prepared | None:
        waiting = await self._inbox.get()
        if waiting is None:
            return None
        if waiting.is_superseded:
            return _Prepared(waiting.frame, FrameSuperseded(f"a newer frame came before the turn of {waiting.frame.number}"))
        return _Prepared(waiting.frame, await self._tracker.prepare(self._session, waiting.frame))

    async def _send_token(self, token: pb.ResumeToken | None) -> None:
        if token is not None:
            await self._send(pb.TrackStreamResponse(resume_token=token))

    async def _send(self, event: pb.TrackStreamResponse) -> None:
        # gRPC takes one message at a time, and `drain` speaks from another task.
        async with self._sending:
            writing = asyncio.ensure_future(self._send_event(event))
            try:
                await asyncio.shield(writing)
            except asyncio.CancelledError:
                # A write that is broken off stays pending inside gRPC, which then has no room for the stream's status.
                writing.add_done_callback(_take_note)
                await asyncio.wait([writing], timeout=_LAST_WRITE_SECONDS)
                raise


def _digest(config: pb.StreamConfig) -> bytes:
    return hashlib.sha256(config.SerializeToString(deterministic=True)).digest()


@contextmanager
def _held_briefly(upcoming: "asyncio.Task[_Prepared | None] | None") -> Iterator[None]:
    """The next frame loses its picture, also one that is still to come, where the body takes long: who does not read must not
    fill the room for pictures that all streams share.
    """
    if upcoming is None:
        yield
        return
    waiting = asyncio.get_running_loop().call_later(_HELD_SECONDS, upcoming.add_done_callback, _let_go)
    try:
        yield
    finally:
        waiting.cancel()
        upcoming.remove_done_callback(_let_go)


def _let_go(upcoming: "asyncio.Task[_Prepared | None]") -> None:
    prepared = None if upcoming.cancelled() or upcoming.exception() else upcoming.result()
    if prepared is not None and isinstance(prepared.picture, Decoded):
        prepared.picture = None


def _take_note(writing: "asyncio.Future[None]") -> None:
    """Hear that the write failed, as there is nobody else left: asyncio would log an error that is none of ours."""
    if not writing.cancelled():
        writing.exception()

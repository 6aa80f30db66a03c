"""All open streams of this front: opened, counted and drained here."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from grpc import aio

from mixformer.tracking.v1 import tracking_pb2 as pb
from service.errors import Draining, InvalidRequest, TooManyStreams
from service.front.calls.metadata import session_named, traceparent_of
from service.front.calls.options import granted_options
from service.front.calls.stream import Read, Stream
from service.front.front import Front
from service.front.resume.finder import Asked
from service.front.tracking.holder import Holder
from service.front.tracking.session import Session
from service.front.wire.status import Context

_FIRST_MESSAGE_SECONDS = 30.0
# Shares of the greatest age at which streams are drained.
_AGES = (0.75, 1.0)


class Streams:
    """The open streams. One that has no session yet is None."""

    def __init__(self, front: Front, max_streams: int) -> None:
        self._front = front
        self._max_streams = max_streams
        self._open: dict[Holder, Stream | None] = {}
        self._by_client: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    async def serve(self, context: Context) -> None:
        """One stream, from its first message to its end. Raises ServiceError where it is not its client that ends it."""
        client = str(self._front.callers.of(context))
        self._check_room(client)
        with Holder() as holder:
            self._open[holder] = None
            self._by_client[client] += 1
            try:
                await self._serve(holder, client, context)
            finally:
                del self._open[holder]
                self._by_client -= Counter((client,))

    async def drain(self, seconds: float) -> None:
        """Tell every stream that the server goes away within `seconds`; those without a session end at once."""
        waiting = [holder for holder, stream in self._open.items() if stream is None]
        for holder in waiting:
            holder.end(Draining("the server is going away"))
        draining = (stream.drain(seconds) for stream in self._open.values() if stream is not None)
        await asyncio.gather(*draining, return_exceptions=True)

    def _check_room(self, client: str) -> None:
        if len(self._open) >= self._max_streams:
            raise TooManyStreams(f"{len(self._open)} streams are open, max_streams is {self._max_streams}")
        # One for each of its sessions, and one that takes it over.
        share = 2 * self._front.settings.limits.max_client_sessions
        if share and self._by_client[client] >= share:
            raise TooManyStreams(f"client {client} has {self._by_client[client]} streams, twice max_client_sessions is {share}")

    async def _serve(self, holder: Holder, client: str, context: Context) -> None:
        first = await _first(context)
        # Before the session is taken from another stream, so that a wrong option costs that one nothing.
        options = granted_options(first.config.options, self._front)
        session_id = session_named(first.config.session_id, context)
        asked = Asked(client, session_id, first.config.resume_token, options, is_stream=True, may_begin=True)
        session, is_new, resume = await self._front.finder.open(asked)
        try:
            async with session.hold(holder):
                if resume is not None:
                    self._front.tracker.resume(session, resume)
                if first.config.HasField("options"):
                    self._front.tracker.set_options(session, options)
                read = _reader(first, context, session, self._front.callers.recheck(context))
                # A stream may last for days, and its first picture and its resume token would with it.
                del first, asked, resume
                stream = Stream(session, self._front, read, context.write, traceparent_of(context))
                self._open[holder] = stream
                async with self._aging(stream):
                    await stream.run()
        finally:
            if is_new:
                await self._front.table.end_unused(session)

    @asynccontextmanager
    async def _aging(self, stream: Stream) -> AsyncIterator[None]:
        """Drain the stream when it is old: its client opens another one, which a proxy may give to a newer server."""
        aging = asyncio.create_task(self._drain_old(stream))
        try:
            yield
        finally:
            aging.cancel()
            await asyncio.gather(aging, return_exceptions=True)

    async def _drain_old(self, stream: Stream) -> None:
        settings = self._front.settings
        if settings.max_stream_seconds:
            # Streams that were opened together do not move together.
            await asyncio.sleep(settings.max_stream_seconds * random.uniform(*_AGES))
            await stream.drain(settings.grace_seconds, "the stream is over max_stream_seconds: open another one")


async def _first(context: Context) -> pb.TrackStreamRequest:
    """The first message. A stream that never sends one must not take up room."""
    try:
        async with asyncio.timeout(_FIRST_MESSAGE_SECONDS):
            first = await _read(context)
    except TimeoutError:
        raise InvalidRequest(f"no message within {_FIRST_MESSAGE_SECONDS:g} s") from None
    if first is None or not first.HasField("config"):
        raise InvalidRequest("the first message of a stream must carry its config")
    return first


def _reader(first: pb.TrackStreamRequest, context: Context, session: Session, check: Callable[[], None]) -> Read:
    """Reads for the session, `first` first, for as long as `check` does not raise."""
    ahead = [first]

    async def read() -> pb.TrackStreamRequest | None:
        if ahead:
            return ahead.pop()
        request = await _read(context)
        check()
        # Not only when its turn comes: it may wait long for room to be decoded in.
        session.touch()
        return request

    return read


async def _read(context: Context) -> pb.TrackStreamRequest | None:
    """The next message, None at the end. Not by gRPC's iterator, which keeps each one until the next has come."""
    request = await context.read()
    return None if request is aio.EOF else request

"""A client's session, over as many streams as it takes: when one breaks, the session goes on in another, here or elsewhere.

The server hands out resume tokens, each good for the state after some frame. Frames after the last token's are kept, so that
whichever server takes the session over can be sent what it has not seen; results that came before are not given twice. Where
there is no token, or it is refused, the session goes on by its id where a server still knows it, else anew from the last boxes.
"""

import asyncio
import contextlib
import random
import secrets
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import grpc

from mixformer.tracking.v1 import tracking_pb2 as pb
from service.client import ClientError, TrackingClient, TrackingStream, to_frame
from service.decode import Payload, size_of

PATIENCE_SECONDS = 30.0
# Frames that are kept for the next server once they are answered: ten seconds of a camera at 25 Hz, or less where they are large.
MAX_KEPT = 256
MAX_KEPT_BYTES = 64 << 20
_ID_BYTES = 16
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 2.0
# What a server that goes away, a proxy that lost it and a broken connection end a stream with.
_BROKEN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED}
# A server that is full may have room soon.
_WORTH_ANOTHER_TRY = _BROKEN | {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED}
# Made with a key that this server does not have, or for a model that it does not run.
_REFUSED_TOKEN = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.PERMISSION_DENIED}


@dataclass
class _Sent:
    number: int
    payload: Payload
    commands: Sequence[pb.TargetCommand]
    is_answered: bool = False
    # Whether it has the server see to it that the targets are there.
    is_ensuring: bool = False

    def request(self, ensured: Sequence[pb.TargetCommand]) -> pb.TrackStreamRequest:
        """The message, made when it is sent: what is kept is the caller's bytes and no copy."""
        self.is_ensuring = bool(ensured)
        return pb.TrackStreamRequest(frame=to_frame(self.number, self.payload), targets=[*ensured, *self.commands])


class ClientSession:
    """One session; use it with `async with`: opened on entry, deleted on exit. One task may send while another receives.

    Frame numbers rise. Every frame that was sent is answered once, in order, whatever happens to the servers.
    """

    def __init__(self, client: TrackingClient, options: pb.SessionOptions, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """`patience_seconds`: how long a broken stream is opened again before its error is raised; 0 means not at all."""
        self.session_id = secrets.token_urlsafe(_ID_BYTES)
        self.times_resumed = 0
        # Of these: where no server knew the session's targets any more.
        self.times_begun_anew = 0
        self._client = client
        self._options = pb.SessionOptions()
        self._options.CopyFrom(options)
        self._options.return_resume_token |= patience_seconds > 0
        self._patience = patience_seconds
        self._broken_at: float | None = None
        self._is_lost = False
        self._stream: TrackingStream | None = None
        self._opening = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._resending: asyncio.Task[None] | None = None
        self._token = b""
        self._boxes: dict[str, pb.BoundingBox] = {}
        # Frames that a next stream may have to be sent, oldest first; of the present stream: still to be sent, and unanswered.
        self._kept: deque[_Sent] = deque()
        self._kept_bytes = 0
        self._unsent: deque[_Sent] = deque()
        self._expected: deque[_Sent] = deque()
        # From when on a frame is to see to it that the targets are there; None while they are known to be.
        self._ensure_at: float | None = None

    async def __aenter__(self) -> Self:
        self._stream = await self._client.open_stream(self._config())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._resending is not None:
            self._resending.cancel()
            await asyncio.gather(self._resending, return_exceptions=True)
        self._present.close()
        if self._is_lost:
            return  # there is no server to ask, or another stream has the session
        try:
            await self._client.delete_session(self.session_id)
        except ClientError as gone:
            # A session that has no target ends with its stream.
            if error is None and gone.code is not grpc.StatusCode.NOT_FOUND:
                raise

    async def send(self, frame_number: int, payload: Payload, commands: Sequence[pb.TargetCommand] = ()) -> None:
        """Sends one frame; waits while flow control holds the stream back. Raises ClientError."""
        sent = _Sent(frame_number, payload, commands)
        self._kept.append(sent)
        self._kept_bytes += size_of(payload)
        self._unsent.append(sent)
        await self._flush()

    async def receive(self) -> pb.FrameResult:
        """The next result, in the order of the frames sent. Raises ClientError when the session cannot go on."""
        while True:
            stream = self._present
            try:
                event = await stream.receive()
            except ClientError as error:
                await self._resume(stream, error)
                self._send_again()
                continue
            if stream is not self._present:
                continue  # what it says comes again
            if event.HasField("resume_token"):
                self._confirm(event.resume_token)
            if event.HasField("result") and self._is_news(event.result):
                return event.result

    @property
    def _present(self) -> TrackingStream:
        assert self._stream is not None, "use it with `async with`"
        return self._stream

    def _config(self) -> pb.StreamConfig:
        return pb.StreamConfig(session_id=self.session_id, options=self._options, resume_token=self._token)

    def _send_again(self) -> None:
        """Beside the receiving: a server whose results nobody takes reads no frames."""
        if self._resending is None or self._resending.done():
            self._resending = asyncio.create_task(self._try_flush())

    async def _try_flush(self) -> None:
        with contextlib.suppress(ClientError):  # who receives hears of it
            await self._flush()

    async def _flush(self) -> None:
        async with self._writing:
            while self._unsent:
                stream, sent = self._present, self._unsent.popleft()
                self._expected.append(sent)
                try:
                    await stream.send(sent.request(self._ensured()))
                except ClientError as error:
                    await self._resume(stream, error)

    def _ensured(self) -> list[pb.TargetCommand]:
        """The first frame of a stream that was opened again sees to it that the targets are there; if refused, a later one does."""
        if self._ensure_at is None or time.monotonic() < self._ensure_at:
            return []
        self._ensure_at = None
        return [pb.TargetCommand(target_id=name, ensure=box) for name, box in self._boxes.items()]

    def _is_news(self, result: pb.FrameResult) -> bool:
        """Take in a result; whether it is the first one of its frame."""
        sent = self._expected.popleft()
        is_news, sent.is_answered = not sent.is_answered, True
        self._broken_at = None
        if result.outcome == pb.FRAME_OUTCOME_PROCESSED:
            self._boxes = {target.target_id: target.box for target in result.targets}
        elif sent.is_ensuring:
            pause = result.error.retry_delay.ToTimedelta().total_seconds()
            # Unequal pauses again: who was refused together must not come back together.
            self._ensure_at = time.monotonic() + pause * random.uniform(1.0, 1.5)
        while self._kept and self._kept[0].is_answered and not self._is_worth_keeping():
            self._forget_oldest()
        return is_news

    def _confirm(self, token: pb.ResumeToken) -> None:
        """Frames up to the token's need not be sent again."""
        self._token = token.token
        while self._kept and self._kept[0].is_answered and self._kept[0].number <= token.last_frame_number:
            self._forget_oldest()

    def _is_worth_keeping(self) -> bool:
        """Whether all that is kept may stay."""
        return self._patience > 0 and len(self._kept) <= MAX_KEPT and self._kept_bytes <= MAX_KEPT_BYTES

    def _forget_oldest(self) -> None:
        self._kept_bytes -= size_of(self._kept.popleft().payload)

    async def _resume(self, broken: TrackingStream, error: ClientError) -> None:
        """Go on in another stream, unless that has been done. Raises ClientError where it cannot be done in time."""
        async with self._opening:
            if broken is not self._present:
                return
            self._broken_at = self._broken_at or time.monotonic()
            self._is_lost = True
            if not self._patience or error.code not in _BROKEN:
                raise error
            broken.close()
            self._stream = await self._reopened(error)
            self._is_lost = False
            self._go_on(self._stream.session)

    async def _reopened(self, error: ClientError) -> TrackingStream:
        pause = _FIRST_PAUSE_SECONDS
        while self._broken_at is not None and time.monotonic() < self._broken_at + self._patience:
            # Unequal pauses: the streams of a server that went away must not come all at once.
            await asyncio.sleep(random.uniform(0.0, pause))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            try:
                return await self._client.open_stream(self._config())
            except ClientError as failed:
                error = failed
            if self._token and error.code in _REFUSED_TOKEN:
                self._token = b""
            elif error.code not in _WORTH_ANOTHER_TRY:
                break
        raise error

    def _go_on(self, session: pb.Session) -> None:
        """Have sent again what this server has not seen. One that knows no target begins at the first unanswered frame."""
        self.times_resumed += 1
        self._ensure_at = time.monotonic()
        seen = session.last_frame_number if session.HasField("last_frame_time") else -1
        is_continued = bool(session.targets)
        self.times_begun_anew += bool(self._boxes) and not is_continued
        self._expected.clear()
        self._unsent = deque(each for each in self._kept if not each.is_answered or is_continued and each.number > seen)
        if not self._unsent:
            self._broken_at = None

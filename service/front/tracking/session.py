"""A client's session: its targets, who may work on it, and when it ends."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from model.target import Target, TargetState
from service.errors import FrameOutOfOrder, InvalidRequest, Overloaded, ServiceError, SessionBusy, SessionTakenOver
from service.front.frames import Outcome
from service.front.tracking.holder import Holder
from service.front.tracking.options import SessionOptions

MAX_QUEUED_CALLS = 16
MAX_ID_CHARACTERS = 128

# What a session may say of itself, also where it comes from outside: all of it fits into the API's messages.
SessionId = Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARACTERS, pattern="^[ -~]*$")]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
# To the end of the year 9999, where protobuf's timestamps end.
TargetId = Annotated[str, Meta(max_length=MAX_ID_CHARACTERS)]
UnixSeconds = Annotated[float, Meta(ge=0, le=253_402_300_799)]


@dataclass(frozen=True)
class Clock:
    """Time, for a test to stand in for: `monotonic` for waits, `wall` (unix seconds) for what clients see."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time


class SessionState(msgspec.Struct, frozen=True):
    """Everything that a session is after its last result, and that it goes on from; times are unix seconds."""

    session_id: SessionId
    client: str
    options: SessionOptions
    epoch: Count
    created_at: UnixSeconds
    last_frame_at: UnixSeconds | None
    last_frame_number: int
    targets: dict[TargetId, TargetState]


def check_id(session_id: str) -> None:
    """Raises InvalidRequest where no session can have this id: metadata could not carry it, or no message name it."""
    if len(session_id) > MAX_ID_CHARACTERS or not session_id.isprintable() or not session_id.isascii():
        raise InvalidRequest(f"session_id must be at most {MAX_ID_CHARACTERS} printable ASCII characters")


class Session:
    """One session. Its targets change only through `commit`, by whoever has its turn: a stream for as long as it is open
    (`hold`), a unary call for one frame (`turn`).
    """

    def __init__(
        self,
        session_id: str,
        client: str,
        options: SessionOptions,
        release: Callable[[bytes], None],
        clock: Clock,
        note: "Callable[[Session], None]",
    ) -> None:
        """`release` is told every memory key that a target of this session has done with, once per target; `note` of every
        frame that has its result.
        """
        self.session_id = session_id
        self.client = client
        self.options = options
        self.epoch = 1
        self.created_at = clock.wall()
        self.last_frame_at: float | None = None
        self.last_frame_number = 0
        # When the last resume token was given, in monotonic seconds.
        self.token_at = -math.inf
        self._clock = clock
        self._release = release
        self._note = note
        self._targets: dict[str, Target] = {}
        # The key under which each target was last given to the engine.
        self._lent: dict[Target, bytes] = {}
        self._turn = asyncio.Lock()
        self._queued = 0
        self._holder: Holder | None = None
        self._ended_by: ServiceError | None = None
        self._frames_under_way = 0
        self._touched_at = clock.monotonic()
        self._opened_at = self._touched_at

    @property
    def targets(self) -> Mapping[str, Target]:
        """The targets by id."""
        return self._targets

    @property
    def state(self) -> SessionState:
        """The session as values."""
        return SessionState(
            self.session_id, self.client, self.options, self.epoch, self.created_at, self.last_frame_at, self.last_frame_number,
            {name: target.state for name, target in self._targets.items()},
        )  # fmt: skip

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self._ended_by is None

    @property
    def is_wanted(self) -> bool:
        """Whether somebody holds the session or waits for it."""
        return self._holder is not None or self._queued > 0

    @property
    def idle_seconds_left(self) -> float:
        """Until the session ends for want of frames. A frame under way stops the clock."""
        if self._frames_under_way:
            return self.options.idle_timeout_seconds
        return self.options.idle_timeout_seconds - (self._clock.monotonic() - self._touched_at)

    @property
    def open_seconds(self) -> float:
        """Since the session began here, or was last opened by a stream."""
        return self._clock.monotonic() - self._opened_at

    @property
    def expires_at(self) -> float:
        """When the session ends if no frame comes, in unix seconds."""
        return self._clock.wall() + self.idle_seconds_left

    @asynccontextmanager
    async def hold(self, holder: Holder) -> AsyncIterator[None]:
        """The session for one stream, taken over from the stream that had it: that one is ended and waited for."""
        former, self._holder = self._holder, holder
        self._opened_at = self._clock.monotonic()
        if former is not None:
            self.epoch += 1
            former.end(SessionTakenOver(f"another stream was opened on session {self.session_id}"))
        try:
            async with self._turn:
                self._check_open()
                yield
        finally:
            if self._holder is holder:
                self._holder = None

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """The session for one frame, after those that asked before. Raises SessionBusy while a stream has it."""
        if self._queued >= MAX_QUEUED_CALLS:
            raise Overloaded(f"session {self.session_id} has {self._queued} calls waiting")
        self._check_free()
        self._queued += 1
        try:
            async with self._turn:
                self._check_open()
                self._check_free()
                with self.working():
                    yield
        finally:
            self._queued -= 1

    async def close(self, error: ServiceError) -> None:
        """End the session: its stream and all who wait for their turn get `error`, its memories are given back."""
        self._ended_by = error
        if self._holder is not None:
            self._holder.end(error)
        async with self._turn:
            self.commit({})

    @contextmanager
    def working(self) -> Iterator[None]:
        """A frame is under way for the length of the body, also while it waits to be decoded: no session ends over it."""
        self._frames_under_way += 1
        try:
            yield
        finally:
            self.finish()

    def touch(self) -> None:
        """A frame has come or has its result: the idle clock starts again."""
        self._touched_at = self._clock.monotonic()

    def begin(self, number: int) -> None:
        """A frame's turn has come. Raises FrameOutOfOrder where its number does not rise and the session is strict."""
        self._frames_under_way += 1
        if self.options.strict_order and self.last_frame_at is not None and number <= self.last_frame_number:
            raise FrameOutOfOrder(f"frame {number} came after frame {self.last_frame_number}")

    def finish(self) -> None:
        """The frame's turn is over."""
        self._frames_under_way -= 1
        self.touch()

    def answer(self, number: int, outcome: Outcome) -> None:
        """The frame has its result: the session is now what it is after this frame."""
        # In strict order a refused frame may come again under its number, or another under a lower one.
        if outcome is not Outcome.REJECTED or not self.options.strict_order:
            self.last_frame_number = number
            self.last_frame_at = self._clock.wall()
        self._note(self)

    def resume(self, state: SessionState, targets: Mapping[str, Target]) -> None:
        """Be what `state` says, with these targets made of it."""
        self.options = state.options
        self.epoch = max(self.epoch, state.epoch + 1)
        self.created_at, self.last_frame_at = state.created_at, state.last_frame_at
        self.last_frame_number = state.last_frame_number
        self.commit(targets)

    def lend(self, target: Target) -> None:
        """Note that the target's memory is about to be used: the engine counts it from now on."""
        self._lent.setdefault(target, target.memory_key)

    def commit(self, targets: Mapping[str, Target]) -> None:
        """These are the session's targets now. The one place where memories are released: of targets that are gone and of
        templates that were renewed."""
        self._targets = dict(targets)
        staying = set(self._targets.values())
        for target, key in list(self._lent.items()):
            if target not in staying or target.memory_key != key:
                del self._lent[target]
                self._release(key)

    def _check_free(self) -> None:
        if self._holder is not None:
            raise SessionBusy(f"a stream holds session {self.session_id}")

    def _check_open(self) -> None:
        if self._ended_by is not None:
            raise self._ended_by

"""The frames of one stream that wait for their turn."""

import asyncio
from collections import deque
from dataclasses import dataclass, replace

from service.errors import ServiceError
from service.front.frames import Frame

DEPTH = 2
# Superseded frames wait for their answers without their pictures; at 30 frames/s this is half a minute.
MAX_UNANSWERED = 1024


@dataclass
class Waiting:
    """A frame in the inbox. A superseded one has lost its picture and is to be answered as dropped."""

    frame: Frame
    is_superseded: bool = False


class Inbox:
    """In order, and never more than DEPTH pictures: when there is no room, `put` waits, and with it the client.

    With `newest_wins` a new frame supersedes those before it, except frames that carry commands.
    """

    def __init__(self, *, newest_wins: bool) -> None:
        self._newest_wins = newest_wins
        self._waiting: deque[Waiting] = deque()
        self._changed = asyncio.Condition()
        self._is_closed = False
        self._closed_by: ServiceError | None = None
        self._putting = 0

    @property
    def is_closed(self) -> bool:
        """Whether nothing more is taken."""
        return self._is_closed

    async def put(self, frame: Frame) -> None:
        """Take a frame, as soon as there is room."""
        self._putting += 1
        try:
            async with self._changed:
                await self._changed.wait_for(self._has_room)
                if self._newest_wins:
                    self._supersede()
                self._waiting.append(Waiting(frame))
        finally:
            self._putting -= 1
            await self._notify()

    async def get(self) -> Waiting | None:
        """The next frame. Once closed and empty: None, or the error it was closed with is raised."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._waiting or self._is_closed and not self._putting)
            if not self._waiting:
                if self._closed_by is not None:
                    raise self._closed_by
                return None
            self._changed.notify_all()
            return self._waiting.popleft()

    async def close(self, error: ServiceError | None = None) -> None:
        """Take nothing more; what is here, or already waits to come in, is still to be answered."""
        if not self._is_closed:
            self._is_closed = True
            self._closed_by = error
            await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _has_room(self) -> bool:
        if not self._newest_wins:
            return len(self._waiting) < DEPTH
        staying = sum(bool(each.frame.commands) for each in self._waiting)
        return staying < DEPTH and len(self._waiting) < MAX_UNANSWERED

    def _supersede(self) -> None:
        for each in self._waiting:
            if not each.frame.commands and not each.is_superseded:
                each.frame = replace(each.frame, payload=None)
                each.is_superseded = True

"""Whether a worker's device lives, by its answers to our pings."""

import asyncio
import itertools
from collections.abc import Callable

from service.messages import Ping

_PING_SECONDS = 1.0
_STALE_SECONDS = 10.0
_RESTART_GRACE_SECONDS = 30.0


class Heartbeat:
    """Ready for as long as the device answers, and through a restart that is worth waiting for."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._answered = asyncio.Event()
        self._ready_until = float("-inf")

    @property
    def is_ready(self) -> bool:
        """Whether the device answered a ping lately, or was lost so lately that its restart is worth waiting for."""
        return self._clock() < self._ready_until

    async def beat(self, post: Callable[[Ping], None]) -> None:
        """Ping over one link until it ends, a second after each answer."""
        for ping_id in itertools.count():
            self._answered.clear()
            post(Ping(ping_id))
            await self._answered.wait()
            await asyncio.sleep(_PING_SECONDS)

    def on_answer(self) -> None:
        """The device has answered."""
        self._ready_until = self._clock() + _STALE_SECONDS
        self._answered.set()

    def on_lost(self) -> None:
        """The link ended."""
        if self.is_ready:
            self._ready_until = self._clock() + _RESTART_GRACE_SECONDS

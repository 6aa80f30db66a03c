"""Who may still come in while the server goes away, and when all have left."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import Draining


class Door:
    """Counts the calls inside. Once closed, it lets nobody in."""

    def __init__(self) -> None:
        self._inside = 0
        self._is_closed = False
        self._all_left = asyncio.Event()
        self._all_left.set()

    @property
    def inside(self) -> int:
        """Calls that have not left yet."""
        return self._inside

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Be inside for the length of the body. Raises Draining once the door is closed."""
        if self._is_closed:
            raise Draining("the server is going away")
        self._inside += 1
        self._all_left.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._all_left.set()

    def close(self) -> None:
        """Let nobody in any more."""
        self._is_closed = True

    async def wait_until_empty(self, seconds: float) -> bool:
        """Wait for those inside to leave, at most `seconds`. Whether all have left."""
        try:
            async with asyncio.timeout(seconds):
                await self._all_left.wait()
        except TimeoutError:
            return False
        return True

"""Calls that end only when their client ends them, beside the streams of sessions: how many there may be."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.errors import TooManyStreams
from service.front.wire.status import Context, abort


class EndlessCalls:
    """Counts the open calls of `Health/Watch` and reflection, so that they leave room for all others."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open = 0

    @asynccontextmanager
    async def enter(self, context: Context) -> AsyncIterator[None]:
        """Be counted for the length of the body. Ends the call as TOO_MANY_STREAMS where as many are open as there may be."""
        if self._open >= self._most:
            said = f"{self._open} calls of Health/Watch and reflection are open, max_streams is {self._most}"
            await abort(context, TooManyStreams(said))
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

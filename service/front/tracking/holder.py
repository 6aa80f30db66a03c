"""The hold that a stream has on its session, and how it loses it."""

import asyncio
from types import TracebackType
from typing import Self

from service.errors import ServiceError


class Holder:
    """A stream, for those who may end it before its time. Use it with `with` around all that the stream does.

    `end` has the error come out of the body. As with asyncio.timeout, that is one cancellation of the task; any other is the
    client's and goes on as it is.
    """

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._ended_by: ServiceError | None = None
        self._is_over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._is_over = True
        if self._ended_by is None or self._task is None:
            return
        is_only_ours = self._task.uncancel() == 0
        if is_only_ours and kind is asyncio.CancelledError:
            raise self._ended_by from None

    def end(self, error: ServiceError) -> None:
        """End the stream with this error, unless it has ended or is ending already."""
        if self._task is not None and not self._is_over and self._ended_by is None:
            self._ended_by = error
            self._task.cancel()

"""The event loop that all rounds of a process share."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

# Never closed: gRPC's poller belongs to the first loop that it sees, and complains of one that is closed.
_RUNNER = asyncio.Runner()


def run(work: Coroutine[Any, Any, T]) -> T:
    """What the work gives, as with `asyncio.run`."""
    return _RUNNER.run(work)

"""When the frames of a load test are due: fixed before the first one is sent, whatever the server does (an open loop)."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple


class Schedule(NamedTuple):
    """The frames of one stream. Times are seconds of the caller's clock."""

    begins_at: float
    interval_seconds: float
    frame_count: int

    def due_at(self, frame_number: int) -> float:
        """When a frame is to be sent; its latency counts from here."""
        return self.begins_at + frame_number * self.interval_seconds


def spread(streams: int, rate: float, duration_seconds: float, begins_at: float) -> list[Schedule]:
    """One schedule a stream, `rate` frames a second each, offset so that all streams together send evenly."""
    interval = 1.0 / rate
    frame_count = max(1, round(duration_seconds * rate))
    return [Schedule(begins_at + interval * index / streams, interval, frame_count) for index in range(streams)]


async def paced(
    schedule: Schedule, clock: Callable[[], float], sleep: Callable[[float], Awaitable[None]]
) -> AsyncIterator[int]:
    """The frame numbers, each once it is due. Who comes late gets the next at once: late frames are never left out."""
    for frame_number in range(schedule.frame_count):
        wait = schedule.due_at(frame_number) - clock()
        if wait > 0:
            await sleep(wait)
        yield frame_number

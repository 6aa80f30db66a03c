"""What each part of a pass took: by the clock on a CPU, by events in the device's own queue on a GPU."""

import time
from typing import Protocol

import torch


class Marks(Protocol):
    """Called with a name after each part of a pass."""

    def __call__(self, name: str) -> None: ...

    def end(self) -> None:
        """Called when all of the pass has been asked for."""

    def seconds(self) -> dict[str, float]:
        """What each part took. Waits for the end of the pass."""


class HostMarks:
    """Marks by the clock, for a device that works while it is called: the CPU."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._seconds: dict[str, float] = {}

    def __call__(self, name: str) -> None:
        now = time.perf_counter()
        self._seconds[name] = now - self._last
        self._last = now

    def end(self) -> None:
        """The pass is over by then."""

    def seconds(self) -> dict[str, float]:
        """As they were marked."""
        return self._seconds


class DeviceMarks:
    """Marks by events in the device's own queue: nothing waits for them while the pass runs."""

    def __init__(self) -> None:
        self._events = [("", self._record())]
        self._end: torch.cuda.Event | None = None

    def __call__(self, name: str) -> None:
        self._events.append((name, self._record()))

    def end(self) -> None:
        """Behind the last mark there may be copies."""
        self._end = self._record()

    def seconds(self) -> dict[str, float]:
        """`end` must have been called."""
        assert self._end is not None
        self._end.synchronize()
        pairs = zip(self._events, self._events[1:], strict=False)
        return {name: before.elapsed_time(after) / 1000 for (_, before), (name, after) in pairs}

    def _record(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def marks_of(device: torch.device) -> Marks:
    """Marks for a pass that begins now."""
    return DeviceMarks() if device.type == "cuda" else HostMarks()

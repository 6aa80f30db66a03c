"""What each part of a pass took: by the clock on a CPU, by events in the device's own queue on a GPU."""

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

from service.worker.work import StepTimes


class Marks(Protocol):
    """Called with a name after each part of a pass."""

    def __call__(self, name: str) -> None: ...

    def seconds(self) -> dict[str, float]:
        """What each part took. The pass must have ended."""


class HostMarks:
    """Marks by the clock, for a device that works while it is called: the CPU."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._seconds: dict[str, float] = {}

    def __call__(self, name: str) -> None:
        now = time.perf_counter()
        self._seconds[name] = now - self._last
        self._last = now

    def seconds(self) -> dict[str, float]:
        """As they were marked."""
        return self._seconds


class DeviceMarks:
    """Marks by events in the device's own queue: nothing waits for them while the pass runs."""

    def __init__(self) -> None:
        self._events = [("", self._record())]

    def __call__(self, name: str) -> None:
        self._events.append((name, self._record()))

    def seconds(self) -> dict[str, float]:
        """Waits for the last mark."""
        self._events[-1][1].synchronize()
        pairs = zip(self._events, self._events[1:], strict=False)
        return {name: before.elapsed_time(after) / 1000 for (_, before), (name, after) in pairs}

    def _record(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


class Pass(NamedTuple):
    """One pass of the network: items with padding, and what it took."""

    padded_size: int
    marks: Marks


def marks_of(device: torch.device) -> Marks:
    """Marks for a pass that begins now."""
    return DeviceMarks() if device.type == "cuda" else HostMarks()


def step_times(encodes: Sequence[Pass], tracks: Sequence[Pass]) -> StepTimes:
    """What the passes of one step took together."""
    marks: defaultdict[str, float] = defaultdict(float)
    for each in tracks:
        for name, seconds in each.marks.seconds().items():
            marks[name] += seconds
    head = marks.pop("head", 0.0)
    stages = {name: seconds for name, seconds in marks.items() if name != "backbone"} | {"all": sum(marks.values())}
    return StepTimes(
        padded_size=sum(each.padded_size for each in tracks), stage_seconds=stages, head_seconds=head,
        encoded=sum(each.padded_size for each in encodes), encode_seconds=sum(each.marks.seconds()["encode"] for each in encodes),
    )  # fmt: skip

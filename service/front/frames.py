"""A frame on its way through the front: what came, what is to be done on it, and what became of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum, auto
from typing import NamedTuple

from model.geometry import Box
from model.target import TargetReport
from service.decode import Payload
from service.errors import ServiceError


class Action(Enum):
    """What a client asks of one target. NONE: a command that says nothing, or something of a later release."""

    NONE = auto()
    INITIALIZE = auto()
    ENSURE = auto()
    RELOCATE = auto()
    REMOVE = auto()


class Command(NamedTuple):
    """One action on one target. `box` is in frame pixels and belongs to all but REMOVE and NONE."""

    target_id: str
    action: Action
    box: Box | None = None


@dataclass(frozen=True)
class Frame:
    """A frame as it came. `capture_time` is unix seconds by the client's clock, `arrived_at` monotonic seconds by ours.

    `traceparent` is the client's trace that the frame belongs to (W3C Trace Context), empty where it has none.
    """

    number: int
    payload: Payload | None
    commands: tuple[Command, ...]
    capture_time: float | None
    arrived_at: float
    traceparent: str = ""


class Outcome(IntEnum):
    """What became of a frame; numbers equal the API's."""

    PROCESSED = 1
    DROPPED = 2
    REJECTED = 3


class Timing(NamedTuple):
    """Where the time went, in seconds. Of several targets, the slowest; batch_size, the largest.

    `decode_at` and `asked_at` are when decoding began and the device was asked, in monotonic seconds.
    """

    decode: float = 0.0
    queue: float = 0.0
    backbone: float = 0.0
    total: float = 0.0
    batch_size: int = 0
    decode_at: float = 0.0
    asked_at: float = 0.0


class FrameResult(NamedTuple):
    """The answer to one frame. `targets` maps target ids to reports; `error` says why the frame, or a target, was not used."""

    frame_number: int
    outcome: Outcome
    targets: Mapping[str, TargetReport]
    error: ServiceError | None
    timing: Timing

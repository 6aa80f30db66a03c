"""The API's durations and timestamps as seconds, and back."""

import math

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

_NANOSECONDS = 1_000_000_000


def seconds_of(message: Duration | Timestamp) -> float:
    """Seconds, since 1970 for a timestamp."""
    return message.seconds + message.nanos / _NANOSECONDS


def duration(seconds: float) -> Duration:
    """A duration of so many seconds."""
    return Duration(seconds=int(seconds), nanos=int(math.modf(seconds)[0] * _NANOSECONDS))


def timestamp(seconds: float) -> Timestamp:
    """A moment in unix seconds."""
    return Timestamp(seconds=int(seconds), nanos=int(math.modf(seconds)[0] * _NANOSECONDS))

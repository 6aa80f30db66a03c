"""The frames that one call lets in: each has its result, or is counted as abandoned when the call ends."""

from types import TracebackType
from typing import Self

from service.front.telemetry.metrics import Metrics


class Intake:
    """Use it with `with` around all that becomes of the frames."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._in_hand = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._metrics.on_abandoned(self._in_hand)

    def take(self) -> None:
        """A frame has come."""
        self._in_hand += 1
        self._metrics.on_received()

    def settle(self) -> None:
        """A frame has its result, and is counted by its outcome."""
        self._in_hand -= 1

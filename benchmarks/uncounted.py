"""`python -m benchmarks.uncounted`: the front, with metrics that count nothing of a frame or a batch; what `watching` compares with."""

import sys
from collections.abc import Callable
from unittest.mock import patch

from service.front import frontend
from service.front.frames import FrameResult
from service.front.telemetry.metrics import Metrics


class Uncounted(Metrics):
    """Metrics that stay at nothing."""

    def __init__(self, release: str, clock: Callable[[], float], *, tells_of_workers: bool) -> None:
        # What the worker says of its batches is not counted where another front is to tell it.
        super().__init__(release, clock, tells_of_workers=False)

    def on_received(self) -> None:
        """Not counted."""

    def on_frame(self, result: FrameResult) -> None:
        """Not counted."""

    def on_decoded(self, seconds: float) -> None:
        """Not counted."""


if __name__ == "__main__":
    with patch.object(frontend, "Metrics", Uncounted):
        sys.exit(frontend.main())

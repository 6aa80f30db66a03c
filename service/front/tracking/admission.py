"""Whether the device has room for one more target: those that are tracked keep their pace, and who comes too late is told when to
try again.

What is measured is how many targets are on their way through the device, on average over a quarter of a second. By Little's law
that is their rate times the time they spend there; as many as one pass takes (`room`) means that nobody waits for longer than
the pass before. It needs no estimate of the device's speed and no rate from the client. A target that has just begun has not
been measured: it counts as one, as if it were under way all the time, for its first half second. Of one client no more of these
count against another than fill half of the room: who begins targets without end and tracks none keeps nobody else out.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import FrameShed, Overloaded

RETRY_SECONDS = 1.0
_AVERAGE_SECONDS = 0.25
_UNMEASURED_SECONDS = 0.5
# Of the room: what one client's unmeasured targets take of it for all others, at most.
_CLIENT_SHARE = 0.5
# Passes' worth under way, beyond which frames that may be dropped are: one on the device and one that waits.
_SHED_PASSES = 2


class Admission:
    """Counts what is under way. Belongs to one event loop."""

    def __init__(self, room: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`room` is how many targets may be under way, on average, for another one to begin."""
        self._room = room
        self._clock = clock
        self._under_way = 0
        self._average = 0.0
        self._averaged_at = clock()
        # The targets that are too young to be measured: when they began, and whose they are.
        self._begun: deque[tuple[float, str]] = deque()

    def load(self, client: str) -> float:
        """Targets under way, on average, and those that are expected to be, as they count against another one of `client`."""
        self._advance()
        while self._begun and self._begun[0][0] <= self._averaged_at - _UNMEASURED_SECONDS:
            self._begun.popleft()
        begun = Counter(owner for _, owner in self._begun)
        most = self._room * _CLIENT_SHARE
        return self._average + sum(count if owner == client else min(count, most) for owner, count in begun.items())

    @contextmanager
    def passage(self) -> Iterator[None]:
        """A target is on its way through the device for the length of the body."""
        self._advance()
        self._under_way += 1
        try:
            yield
        finally:
            self._advance()
            self._under_way -= 1

    def check_room(self, client: str) -> None:
        """Raises Overloaded where no target of the client may begin now."""
        load = self.load(client)
        if load >= self._room:
            raise Overloaded(
                f"{load:.1f} targets are on their way through the device, which has room for {self._room}", RETRY_SECONDS
            )

    def begin(self, targets: int, client: str) -> None:
        """So many targets of the client begin. Raises Overloaded where they may not."""
        self.check_room(client)
        self._begun.extend([(self._averaged_at, client)] * targets)

    def shed(self) -> None:
        """Raises FrameShed where a frame that may be dropped is better dropped than kept waiting."""
        if self._under_way >= _SHED_PASSES * self._room:
            raise FrameShed(f"{self._under_way} targets wait for the device already, which has room for {self._room}")

    def _advance(self) -> None:
        now = self._clock()
        weight = math.exp((self._averaged_at - now) / _AVERAGE_SECONDS)
        self._average = weight * self._average + (1 - weight) * self._under_way
        self._averaged_at = now

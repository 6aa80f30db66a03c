"""Many cameras before the worker's queue and slots, in simulated time: the device's pass has a fixed length.

A camera has one frame under way, as a session has: the next one is the newest that it has taken when the answer is there.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean

from service.messages import TrackItem
from service.worker.scheduler import Scheduler, Waiting
from service.worker.slots import SlotTable

PASS_SECONDS = 0.010
TURN_SECONDS = 0.001


@dataclass(eq=False)
class Camera:
    """Takes `rate` frames a second. `waits` are those of its frames for the device."""

    number: int
    rate: float
    client: str = "alice"
    waits: list[float] = field(default_factory=list)

    def next_frame_at(self, now: float) -> float:
        """When it has a frame to send, once the last one is answered; the cameras did not begin at once."""
        phase = self.number * 0.6180339887 % 1
        return max(now + TURN_SECONDS, (int(now * self.rate + 1 - phase) + phase) / self.rate)


class Rush:
    """A worker's queue and slots with these cameras. What a pass takes is told in shares of `PASS_SECONDS`."""

    def __init__(
        self, cameras: Sequence[Camera], slots: int = 1024, max_batch: int = 32, max_encodes: int = 4, encode_share: float = 0.0
    ) -> None:
        """`encode_share`: how much each template memory that has to be made lengthens a pass."""
        self.cameras = cameras
        self.batches: list[int] = []
        self.encodes = 0
        self._encode_share = encode_share
        self._max_batch = max_batch
        self._scheduler = Scheduler(max_batch, max_encodes)
        self._table = SlotTable(slots)
        # When each frame comes to the worker: at, camera, when it came first, with its templates or not.
        self._coming = [(each.next_frame_at(0.0), each.number, -1.0, True) for each in cameras]
        heapq.heapify(self._coming)

    @property
    def fill(self) -> float:
        """How full the batches were."""
        return mean(self.batches) / self._max_batch

    @property
    def frames(self) -> int:
        return sum(self.batches)

    def run(self, seconds: float) -> None:
        """Let this much time pass."""
        now = 0.0
        while now < seconds:
            if not len(self._scheduler):
                now = max(now, self._coming[0][0])
            while self._coming and self._coming[0][0] <= now:
                self._arrive(*heapq.heappop(self._coming))
            now += self._step(now)

    def _arrive(self, at: float, number: int, first_at: float, has_templates: bool) -> None:
        templates = (b"template",) if has_templates else ()
        arrived_at = at if first_at < 0 else first_at
        camera = self.cameras[number]
        item = TrackItem(number, camera.client, number.to_bytes(16, "big"), b"", templates, arrived_at, False)
        self._scheduler.add(Waiting(0, item))

    def _step(self, now: float) -> float:
        """One step of the worker; what it takes."""
        batch = self._scheduler.next_batch(self._table.holds, now)
        lease = self._table.pin([(each.item.memory_key, 0) for each in batch.items])
        self._table.unpin(lease)
        for each in batch.missing:
            heapq.heappush(self._coming, (now + TURN_SECONDS, each.item.item_id, each.item.arrived_at, True))
        if not batch.items:
            return TURN_SECONDS
        self.batches.append(len(batch.items))
        self.encodes += len(lease.fresh)
        seconds = PASS_SECONDS * (1 + len(lease.fresh) * self._encode_share)
        for each in batch.items:
            camera = self.cameras[each.item.item_id]
            camera.waits.append(now - each.item.arrived_at)
            heapq.heappush(self._coming, (camera.next_frame_at(now + seconds), camera.number, -1.0, False))
        return seconds


def cameras(count: int, rates: Sequence[float], clients: Sequence[str] = ("alice",)) -> list[Camera]:
    """So many, whose rates and clients take turns."""
    return [Camera(number, rates[number % len(rates)], clients[number % len(clients)]) for number in range(count)]

"""The worker: owns one device and serves the fronts that connect to its socket. What runs on the device is passed in.

Readers, one thread per front, put what arrives into the queue. The main thread owns the device and repeats one step:
take a batch, pin its slots, ask the device for it, send the answers. Where the device works by itself (a GPU), the next batch
is asked for before the answers of the last have come. One condition variable guards the queue and the slots; the device runs
without it. The process holds nothing that cannot be derived again, so it ends at once: on SIGTERM, when its standard
input ends (its parent is gone), when its device is lost.
"""

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple, NoReturn

from service import logs
from service.child import EXIT_BAD_SETTINGS, begin
from service.config import ServeSettings, SettingsError
from service.link import FrontLink
from service.messages import (
    MAX_WAITING_ITEMS,
    BatchStarted,
    BatchStats,
    Cancel,
    Expired,
    Failed,
    MemoryMissing,
    Message,
    Ping,
    Pong,
    Predicted,
    Release,
    ToWorker,
    TrackItem,
)
from service.pulse import Pulse
from service.worker.scheduler import Batch, Scheduler, Waiting
from service.worker.slots import Lease, SlotTable
from service.worker.work import DeviceRunner, Found, Refused, Step, StepTimes, Work

_log = logging.getLogger(__name__)


class _UnderWay(NamedTuple):
    """A batch that the device has been asked for. `spoiled`: memories that a step before it was to write and could not."""

    batch: Batch
    lease: Lease
    step: Step
    started_at: float
    spoiled: set[bytes]


class Worker:
    """The queue, the slots and the fronts of one runner. `step` belongs to the thread that owns the device; each front has a
    thread in `serve`.
    """

    def __init__(
        self, runner: DeviceRunner, max_encodes: int, pulse: Pulse, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._runner = runner
        self._pulse = pulse
        self._clock = clock
        self._changed = threading.Condition()
        self._scheduler = Scheduler(runner.max_batch, max_encodes)
        self._table = SlotTable(runner.slots)
        self._links: dict[int, FrontLink] = {}
        self._pings: list[tuple[int, Ping]] = []
        self._under_way: deque[_UnderWay] = deque()

    @property
    def slots_in_use(self) -> int:
        """Slots that hold a memory."""
        with self._changed:
            return self._table.in_use

    def serve(self, link: FrontLink) -> None:
        """One front, from hello to its end."""
        self.join(link)
        try:
            for message in link.messages():
                self.receive(link, message)
        except (OSError, ValueError) as error:
            _log.warning("front %d: %r", link.number, error)
        finally:
            self.leave(link)

    def join(self, link: FrontLink) -> None:
        """A front has connected: tell it what runs here."""
        link.send(self._runner.hello())
        with self._changed:
            self._links[link.number] = link
        _log.info("front %d connected", link.number)

    def leave(self, link: FrontLink) -> None:
        """A front is gone: its items are dropped and its memories released."""
        with self._changed:
            del self._links[link.number]
            self._scheduler.drop(link.number)
            self._table.leave(link.number)
            self._changed.notify_all()
        link.close()
        _log.info("front %d left", link.number)

    def receive(self, link: FrontLink, message: ToWorker) -> None:
        """Take in what a front says. Waits while the queue is full."""
        if isinstance(message, TrackItem) and (fault := self._runner.fault(message)):
            link.send(Failed(message.item_id, fault))
            return
        with self._changed:
            match message:
                case TrackItem():
                    # A front keeps to its part by itself (outbox.py). One that does not is not read until there is room.
                    self._changed.wait_for(lambda: len(self._scheduler) < MAX_WAITING_ITEMS * len(self._links))
                    self._scheduler.add(Waiting(link.number, message))
                case Cancel():
                    self._scheduler.cancel(link.number, message.item_id)
                case Release():
                    self._table.release(message.memory_key, link.number)
                case Ping():
                    self._pings.append((link.number, message))
            self._changed.notify_all()

    def step(self) -> None:
        """Ask the device for a batch of what waits; answer the oldest one where the device has enough to do, or nothing waits.

        Waits until there is something of either. Raises RuntimeError where the device is lost.
        """
        if self._under_way and not self._has_slots_for_another():
            self._finish()
        with self._changed:
            self._changed.wait_for(lambda: len(self._scheduler) or self._pings or self._under_way)
            batch = self._scheduler.next_batch(self._table.holds, self._clock())
            lease = self._table.pin([(each.item.memory_key, each.connection) for each in batch.items])
            pings, self._pings = self._pings, []
            self._changed.notify_all()
        for missing in batch.missing:
            self._send(missing.connection, MemoryMissing(missing.item.item_id))
        for expired in batch.expired:
            self._send(expired.connection, Expired(expired.item.item_id))
        if batch.items:
            self._start(batch, lease)
        if self._under_way and (not batch.items or len(self._under_way) >= self._runner.steps_under_way):
            self._finish()
        for connection, ping in pings:
            with self._pulse.step():
                self._runner.ping()
            self._send(connection, Pong(ping.ping_id, self.slots_in_use))

    def _has_slots_for_another(self) -> bool:
        """Whether another batch can have its slots beside those that are under way."""
        return (1 + len(self._under_way)) * self._runner.max_batch <= self._runner.slots

    def _start(self, batch: Batch, lease: Lease) -> None:
        started_at = self._clock()
        self._announce(batch)
        with self._pulse.step():
            step = self._runner.start([_work(each, lease) for each in batch.items])
        self._scheduler.max_batch = self._runner.max_batch
        self._under_way.append(_UnderWay(batch, lease, step, started_at, set()))

    def _finish(self) -> None:
        """Wait for the oldest step, and answer its items."""
        batch, lease, step, started_at, spoiled = self._under_way.popleft()
        with self._pulse.step():
            result = step.result()
        unwritten = {key for key, slot in lease.slots.items() if slot in result.unwritten}
        with self._changed:
            self._table.unpin(lease, unwritten)
        is_for_memory = any(isinstance(each, Refused) and each.is_for_memory for each in result.outcomes)
        if unwritten or is_for_memory:
            self._finish_all(unwritten)
        is_smaller = is_for_memory and self._shrink()
        self._scheduler.max_batch = self._runner.max_batch
        replies: defaultdict[int, list[Message]] = defaultdict(list)
        for waiting, outcome in zip(batch.items, result.outcomes, strict=True):
            is_lost = waiting.item.memory_key in spoiled
            reply = MemoryMissing(waiting.item.item_id) if is_lost else _reply(waiting.item, outcome, started_at, is_smaller)
            replies[waiting.connection].append(reply)
        stats = self._stats(len(batch.items), result.times, lease.evictions)
        for connection, link in self._fronts().items():
            link.send(*replies[connection], stats)

    def _finish_all(self, unwritten: Collection[bytes]) -> None:
        """The steps behind one that could not write these memories: they took them for written."""
        for later in self._under_way:
            later.spoiled.update(unwritten)
        while self._under_way:
            self._finish()

    def _shrink(self) -> bool:
        """Fewer slots, none of them in use. Whether that may help."""
        is_smaller = self._runner.shrink()
        if is_smaller:
            with self._changed:
                self._table = SlotTable(self._runner.slots)
        return is_smaller

    def _stats(self, batch_size: int, times: StepTimes, evictions: int) -> BatchStats:
        return BatchStats(
            batch_size, times.padded_size, times.stage_seconds, times.head_seconds, times.encoded, times.encode_seconds,
            self.slots_in_use, evictions, self._runner.slots, self._runner.max_batch,
        )  # fmt: skip

    def _announce(self, batch: Batch) -> None:
        ids: defaultdict[int, list[int]] = defaultdict(list)
        for each in batch.items:
            ids[each.connection].append(each.item.item_id)
        for connection, item_ids in ids.items():
            self._send(connection, BatchStarted(tuple(item_ids)))

    def _send(self, connection: int, message: Message) -> None:
        link = self._fronts().get(connection)
        if link is not None:
            link.send(message)

    def _fronts(self) -> dict[int, FrontLink]:
        with self._changed:
            return dict(self._links)


def _work(waiting: Waiting, lease: Lease) -> Work:
    key = waiting.item.memory_key
    return Work(lease.slots[key], waiting.item.search, waiting.item.templates if key in lease.fresh else ())


def _reply(item: TrackItem, outcome: Found | Refused, started_at: float, is_smaller: bool) -> Message:
    if isinstance(outcome, Refused):
        # With fewer slots there is room to try it again, once it comes with its templates.
        return MemoryMissing(item.item_id) if outcome.is_for_memory and is_smaller else Failed(item.item_id, outcome.message)
    queued = max(0.0, started_at - item.arrived_at)
    return Predicted(item.item_id, outcome.box, outcome.score, queued, outcome.backbone_seconds, outcome.batch_size)


def _listen(path: str) -> socket.socket:
    """A socket that only this user may connect to; one left behind by a worker that died makes room."""
    Path(path).unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(path)
    os.chmod(path, 0o600)
    listening.listen()
    return listening


def _accept(listening: socket.socket, worker: Worker) -> None:
    number = 0
    while True:
        connected, _ = listening.accept()
        number += 1
        link = FrontLink(connected, number)
        threading.Thread(target=worker.serve, args=(link,), name=f"front {number}", daemon=True).start()


def serve(make_runner: Callable[[ServeSettings], DeviceRunner]) -> NoReturn:
    """A worker's process, with the settings that stand, as a line of JSON, on standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's business: it ends its children in order
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        settings = begin()
        logs.set_up(settings.log_level, settings.log_format)
        pulse = Pulse(settings.worker_timeout_seconds)
        pulse.start(sys.stdout.fileno())
        worker = Worker(make_runner(settings), settings.max_encodes, pulse)
    except SettingsError as error:
        _log.error("worker cannot start: %s", error)
        sys.exit(EXIT_BAD_SETTINGS)
    listening = _listen(settings.socket_of(settings.number))
    threading.Thread(target=_accept, args=(listening, worker), name="accept", daemon=True).start()
    while True:
        worker.step()

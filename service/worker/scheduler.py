"""Which items the device runs next. Plain values: no torch, no clock, no threads."""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from service.messages import TrackItem

# One in so many items of a full batch may have its templates encoded first.
_ENCODE_SHARE = 8


class Waiting(NamedTuple):
    """An item and the number of the connection it came by; item ids are unique within a connection."""

    connection: int
    item: TrackItem


class Batch(NamedTuple):
    """What a step does: `items` share the device, `missing` go back because nobody has their memory, `expired` because it is
    too late for them.
    """

    items: tuple[Waiting, ...]
    missing: tuple[Waiting, ...]
    expired: tuple[Waiting, ...]


class Scheduler:
    """The queue in front of the device.

    Oldest first, but fair: nobody's second item goes before everybody's first. At most `max_batch` items a step. Of those that
    need their templates encoded first, one in eight goes in its turn, and up to `max_encodes` memories where there would be room
    left: so after a restart, or with more targets than slots, the targets already encoded go on at nearly full rate while the
    others come back few by few. An item marked `alone` has a batch of its own.
    """

    def __init__(self, max_batch: int, max_encodes: int) -> None:
        if max_batch < 1 or max_encodes < 1:
            raise ValueError(f"max_batch {max_batch} and max_encodes {max_encodes} must be at least 1")
        self.max_batch = max_batch
        self._max_encodes = max_encodes
        self._waiting: dict[tuple[int, int], Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, waiting: Waiting) -> None:
        """Queue an item; one with the id of an item that still waits takes its place."""
        self._waiting[waiting.connection, waiting.item.item_id] = waiting

    def cancel(self, connection: int, item_id: int) -> None:
        """Drop one item, if it still waits."""
        self._waiting.pop((connection, item_id), None)

    def drop(self, connection: int) -> None:
        """Drop all items of a connection: nobody is left to hear of them."""
        self._waiting = {key: waiting for key, waiting in self._waiting.items() if waiting.connection != connection}

    def next_batch(self, holds: Callable[[bytes], bool], now: float) -> Batch:
        """Take the items of the next step out of the queue. `holds` tells whether a memory key is on the device; `now` is on
        the clock of the items.

        An item without templates whose memory is not held is missing at once, unless another item that waits brings the
        same memory: then it waits for that one.
        """
        expired = tuple(each for each in self._waiting.values() if (each.item.expires_at or math.inf) < now)
        self._take(expired)
        brought = {waiting.item.memory_key for waiting in self._waiting.values() if waiting.item.templates}
        missing = tuple(
            waiting
            for waiting in self._waiting.values()
            if waiting.item.memory_key not in brought and not holds(waiting.item.memory_key)
        )
        self._take(missing)
        items = self._choose(holds)
        self._take(items)
        return Batch(items, missing, expired)

    def _choose(self, holds: Callable[[bytes], bool]) -> tuple[Waiting, ...]:
        chosen: list[Waiting] = []
        encodes: set[bytes] = set()
        candidates = _in_turn(self._waiting.values())
        for limit in (max(1, self.max_batch // _ENCODE_SHARE), self._max_encodes):
            passed: list[Waiting] = []
            for each in candidates:
                key = each.item.memory_key
                is_ready = holds(key) or (
                    each.item.templates and (key in encodes or len(encodes) < min(limit, self._max_encodes))
                )
                if not is_ready or (each.item.alone and chosen):
                    passed.append(each)
                    continue
                chosen.append(each)
                if not holds(key):
                    encodes.add(key)
                if each.item.alone or len(chosen) >= self.max_batch:
                    return tuple(chosen)
            candidates = passed
        return tuple(chosen)

    def _take(self, taken: Iterable[Waiting]) -> None:
        for waiting in taken:
            del self._waiting[waiting.connection, waiting.item.item_id]


def _in_turn(waiting: Iterable[Waiting]) -> list[Waiting]:
    """By turns of the clients, and by age within a turn."""
    turns: Counter[str] = Counter()
    ranked: list[tuple[int, Waiting]] = []
    for each in sorted(waiting, key=lambda each: each.item.arrived_at):
        ranked.append((turns[each.item.client], each))
        turns[each.item.client] += 1
    return [each for _, each in sorted(ranked, key=lambda entry: entry[0])]

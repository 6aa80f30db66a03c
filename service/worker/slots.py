"""Which memory lies in which slot of the device, who holds it, and which goes when room is needed."""

from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


class Lease(NamedTuple):
    """The slots of one batch, kept from eviction until the lease is given back.

    slots: the slot of every key of the batch
    fresh: the keys among them whose memory has still to be written there
    evictions: memories that had to go for them
    """

    slots: dict[bytes, int]
    fresh: frozenset[bytes]
    evictions: int


@dataclass
class _Entry:
    slot: int
    holders: set[int] = field(default_factory=set)
    leases: int = 0


class SlotTable:
    """Slots by memory key. A key is in use while a connection holds it; equal crops of several connections share a slot.

    When all slots are in use, the memory that was used longest ago goes, held or not: its front is told so when it next
    asks (`MemoryMissing`) and sends the crops again. There may be a lease for every batch that the device has been asked for.
    """

    def __init__(self, slots: int) -> None:
        self._free = list(range(slots - 1, -1, -1))
        # Least recently used first.
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()

    @property
    def in_use(self) -> int:
        """Slots that hold a memory."""
        return len(self._entries)

    def holds(self, key: bytes) -> bool:
        """Whether the memory of this key is on the device."""
        return key in self._entries

    def pin(self, wanted: Collection[tuple[bytes, int]]) -> Lease:
        """Give every (key, connection) its slot, and the connection its hold on the key, until `unpin`.

        Raises RuntimeError where there are more different keys than slots.
        """
        fresh = frozenset(key for key, _ in wanted if key not in self._entries)
        keys = dict.fromkeys(key for key, _ in wanted)
        for key in keys:
            if key not in fresh:
                self._entries[key].leases += 1
        evictions = max(0, len(fresh) - len(self._free))
        for _ in range(evictions):
            self._evict()
        for key in fresh:
            self._entries[key] = _Entry(self._free.pop(), leases=1)
        for key, connection in wanted:
            self._entries[key].holders.add(connection)
            self._entries.move_to_end(key)
        return Lease({key: self._entries[key].slot for key in keys}, fresh, evictions)

    def unpin(self, lease: Lease, unwritten: Iterable[bytes] = ()) -> None:
        """Give a lease back. `unwritten` are the fresh keys whose memory could not be made; they are forgotten."""
        for key in lease.slots:
            self._entries[key].leases -= 1
        for key in unwritten:
            self._entries[key].holders.clear()
        for key in lease.slots:
            self._free_unheld(key)

    def release(self, key: bytes, connection: int) -> None:
        """The connection holds this key no more. A key it does not hold (evicted before) is no error."""
        if key in self._entries:
            self._entries[key].holders.discard(connection)
            self._free_unheld(key)

    def leave(self, connection: int) -> None:
        """The connection is gone, and holds nothing any more."""
        for key in list(self._entries):
            self.release(key, connection)

    def _evict(self) -> None:
        oldest = next((key for key, entry in self._entries.items() if not entry.leases), None)
        if oldest is None:
            raise RuntimeError(f"a batch has more memories than the {len(self._entries)} slots")
        self._free.append(self._entries.pop(oldest).slot)

    def _free_unheld(self, key: bytes) -> None:
        entry = self._entries[key]
        if not entry.holders and not entry.leases:
            self._free.append(self._entries.pop(key).slot)

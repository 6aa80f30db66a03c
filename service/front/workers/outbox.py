"""What the front has to tell one worker, in order; made for one link and thrown away with it."""

from collections import deque
from collections.abc import Mapping

from service.front.workers.items import Item
from service.link import WorkerLink
from service.messages import Release, ToWorker, TrackItem


class Outbox:
    """Items wait here by id and are made into messages only when their turn comes, so that those whose caller has left
    cost nothing, and templates go only where the worker is not known to hold their memory by then.
    """

    def __init__(self, items: Mapping[int, Item], link: WorkerLink) -> None:
        """`items` are the engine's, by id."""
        self._items = items
        self._link = link
        self._queue: deque[int | ToWorker] = deque()
        # Keys sent with their templates and not released since.
        self._known: set[bytes] = set()

    def post(self, entry: int | ToWorker) -> None:
        """Say this next, at once where the link has room: an item, by its id, or a message."""
        self._queue.append(entry)
        self._write()

    def post_again(self, item_id: int) -> None:
        """Send an item with its templates: the worker does not hold its memory, whatever it was sent before."""
        if item_id in self._items:
            self._known.discard(self._items[item_id].memory_key)
            self.post(item_id)

    def _write(self) -> None:
        try:
            while self._queue and not self._link.is_sending:
                message = self._message(self._queue.popleft())
                if message is not None:
                    self._link.send(message, self._write)
        except Exception as error:  # noqa: BLE001 - whatever it is, the item is sent again over the next link
            self._link.end(error)

    def _message(self, entry: int | ToWorker) -> ToWorker | None:
        """What goes over the wire for an entry of the outbox; None where it has become pointless meanwhile."""
        if isinstance(entry, int):
            return self._track_item(entry) if entry in self._items else None
        if isinstance(entry, Release):
            if entry.memory_key not in self._known:
                return None
            self._known.remove(entry.memory_key)
        return entry

    def _track_item(self, item_id: int) -> TrackItem:
        item = self._items[item_id]
        is_known = item.memory_key in self._known
        self._known.add(item.memory_key)
        templates = () if is_known else tuple(crop.tobytes() for crop in item.templates)
        return TrackItem(
            item_id, item.client, item.memory_key, item.search, templates, item.arrived_at, item.alone, item.expires_at
        )

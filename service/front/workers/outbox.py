"""What the front has to tell one worker; made for one link and thrown away with it."""

from collections import deque
from collections.abc import Iterable, Mapping

from service.front.workers.items import Item
from service.link import WorkerLink
from service.messages import MAX_WAITING_ITEMS, Release, ToWorker, TrackItem


class Outbox:
    """Items wait here by id and are made into messages only when their turn comes, so that those whose caller has left
    cost nothing, and templates go only where the worker is not known to hold their memory by then.

    The worker is fair among the items that wait there, which are never more than MAX_WAITING_ITEMS of this front. Where more
    wait, clients take turns here for the next place. Messages go before items.
    """

    def __init__(self, items: Mapping[int, Item], link: WorkerLink) -> None:
        """`items` are the engine's, by id."""
        self._items = items
        self._link = link
        self._messages: deque[ToWorker] = deque()
        # The ids of each client's items, oldest first; the client whose turn is next comes first.
        self._turns: dict[str, deque[int]] = {}
        # Ids of items that were sent and wait at the worker.
        self._waiting: set[int] = set()
        # Keys sent and not released since, and those among them whose templates need not go again: all that no MemoryMissing named.
        self._sent: set[bytes] = set()
        self._known: set[bytes] = set()

    def post(self, entry: int | ToWorker) -> None:
        """Say this, at once where the link has room: an item, by its id, or a message."""
        if isinstance(entry, int):
            self._turns.setdefault(self._items[entry].client, deque()).append(entry)
        else:
            self._messages.append(entry)
        self._write()

    def post_again(self, item_id: int) -> None:
        """Send an item with its templates: the worker does not hold its memory, whatever it was sent before."""
        if item_id in self._items:
            self._known.discard(self._items[item_id].memory_key)
            self._waiting.discard(item_id)
            self.post(item_id)

    def make_room(self, item_ids: Iterable[int]) -> None:
        """These items wait at the worker no more: others may."""
        self._waiting.difference_update(item_ids)
        self._write()

    def _write(self) -> None:
        try:
            while not self._link.is_sending and (message := self._next()) is not None:
                self._link.send(message, self._write)
        except Exception as error:  # noqa: BLE001 - whatever it is, the item is sent again over the next link
            self._link.end(error)

    def _next(self) -> ToWorker | None:
        """What goes over the wire next, past what has become pointless meanwhile; None where nothing does."""
        while self._messages:
            message = self._messages.popleft()
            if not isinstance(message, Release):
                return message
            self._known.discard(message.memory_key)
            if message.memory_key in self._sent:
                self._sent.remove(message.memory_key)
                return message
        while self._turns and len(self._waiting) < MAX_WAITING_ITEMS:
            item_id = self._take_turn()
            if item_id is not None:
                self._waiting.add(item_id)
                return self._track_item(item_id)
        return None

    def _take_turn(self) -> int | None:
        """The oldest item of the client whose turn it is, which goes to the end of the line; None where nobody waits for any."""
        client = next(iter(self._turns))
        item_ids = self._turns.pop(client)
        while item_ids:
            item_id = item_ids.popleft()
            if item_id in self._items and not self._items[item_id].answer.done():
                if item_ids:
                    self._turns[client] = item_ids
                return item_id
        return None

    def _track_item(self, item_id: int) -> TrackItem:
        item = self._items[item_id]
        is_known = item.memory_key in self._known
        self._known.add(item.memory_key)
        self._sent.add(item.memory_key)
        templates = () if is_known else tuple(crop.tobytes() for crop in item.templates)
        return TrackItem(
            item_id, item.client, item.memory_key, item.search, templates, item.arrived_at, item.alone, item.expires_at
        )

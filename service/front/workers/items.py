"""Search crops on their way to one worker, and what becomes of them when it dies."""

import asyncio
import itertools
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from model.crop import Image
from model.geometry import CropBox
from service.errors import PoisonedFrame, ServiceError

_log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """Where the target is in its search crop. The box and score are as the network gave them, finite or not."""

    box: CropBox
    score: float | None
    queue_seconds: float
    backbone_seconds: float
    batch_size: int


class LinkLost(Exception):
    """The worker is gone and may never have seen this item: another worker can have it."""


def _future() -> asyncio.Future[Answer]:
    return asyncio.get_running_loop().create_future()


@dataclass
class Item:
    """A search crop on its way, kept through the deaths of workers. `alone`: it may have killed one."""

    client: str
    memory_key: bytes
    templates: tuple[Image, ...]
    search: bytes
    arrived_at: float
    expires_at: float | None
    alone: bool = False
    answer: asyncio.Future[Answer] = field(default_factory=_future)

    def settle(self, outcome: Answer | ServiceError | LinkLost) -> None:
        """Give the answer, unless there is one or nobody waits for it any more."""
        if self.answer.done():
            return
        if isinstance(outcome, Answer):
            self.answer.set_result(outcome)
        else:
            self.answer.set_exception(outcome)


class Items:
    """All that is under way to one worker, by id."""

    def __init__(self) -> None:
        self._ids = itertools.count()
        self._items: dict[int, Item] = {}
        self._on_device: set[int] = set()

    @property
    def by_id(self) -> Mapping[int, Item]:
        """What is under way now, oldest first."""
        return self._items

    def add(self, item: Item) -> int:
        """The item is under way until `remove`, under the id that this gives."""
        item_id = next(self._ids)
        self._items[item_id] = item
        return item_id

    def remove(self, item_id: int) -> None:
        """Nobody waits for the item any more, or it has its answer."""
        del self._items[item_id]

    def begin(self, item_ids: Iterable[int]) -> None:
        """The worker has these on its device: should it die, one of them may be why."""
        self._on_device.update(item_ids)

    def give_back(self, item_id: int) -> None:
        """The worker wants the item again before it runs it: it is on its device no more."""
        self._on_device.discard(item_id)

    def settle(self, item_id: int, outcome: Answer | ServiceError) -> None:
        """The worker is done with an item, whether anybody waits for it or not."""
        self._on_device.discard(item_id)
        if item_id in self._items:
            self._items[item_id].settle(outcome)

    def settle_all(self, error: ServiceError) -> None:
        """Nobody will answer any more."""
        for item in self._items.values():
            item.settle(error)

    def lose(self, *, is_replaceable: bool) -> None:
        """The worker is gone. What was on its device is to be run alone, or refused where it was alone already; the rest waits for the
        next worker, or ends with LinkLost where there is another.
        """
        if self._items:
            _log.warning("worker lost with %d items under way, %d on its device", len(self._items), len(self._on_device))
        suspects = [self._items[item_id] for item_id in self._on_device if item_id in self._items]
        self._on_device.clear()
        for item in suspects:
            if item.alone:
                item.settle(PoisonedFrame("the worker died twice with this frame on its device"))
            item.alone = True
        if is_replaceable:
            for item in self._items.values():
                if not item.alone:
                    item.settle(LinkLost())

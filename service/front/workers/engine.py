"""The front's side of the worker link: one call per search crop, and the worker's death as a delay.

The life of an item. `submit` gives it an id and an arrival time and puts it in the outbox; the writer sends it, with the
templates of its memory only where this worker is not known to hold them. The worker answers with one of:

* `Predicted`: the answer of `submit`;
* `MemoryMissing`: the memory was evicted; the item is sent again, with its templates and its first arrival time;
* `Expired`: its time was over before its turn came; FrameTooOld;
* `Failed`: DeviceError.

`BatchStarted` says that items are on the device, and leaves their places in the worker's queue to others. When the link
ends, nothing is known to be held any more, and every unanswered item waits here for the next link, where it is sent again.
An item that was on the device at that moment may have killed the worker: it is sent to be run alone, and at its second
death refused (PoisonedFrame). Whose caller goes away is cancelled at the worker too, and who waits too long gets
WorkerUnavailable, however often the item was sent.

Where there are other workers (fleet.py), only what was on the device waits for the next link: every other item ends with
LinkLost, for the fleet to send it elsewhere.

Everything here is made for what the first worker said it runs. One that runs something else ends the engine (WorkerChanged).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from model.geometry import CropBox
from service.errors import DeviceError, FrameTooOld, WorkerUnavailable
from service.front.workers.heartbeat import Heartbeat
from service.front.workers.hello import WorkerChanged, check_same, greet
from service.front.workers.items import Answer, Item, Items
from service.front.workers.memories import Memories, MemorySource
from service.front.workers.observer import EngineObserver
from service.front.workers.outbox import Outbox
from service.link import WorkerLink
from service.messages import (
    BatchStarted,
    BatchStats,
    Cancel,
    Expired,
    Failed,
    Hello,
    MemoryMissing,
    Pong,
    Predicted,
    Release,
    ToFront,
    ToWorker,
)

_RETRY_SECONDS = 0.05

_log = logging.getLogger(__name__)


class Engine:
    """The worker, as the front sees it. Everything runs on one event loop.

    The number of items under way is limited by the callers: a session has one frame on its way at a time.
    """

    def __init__(
        self,
        socket_path: str,
        timeout_seconds: float,
        observer: EngineObserver,
        clock: Callable[[], float] = time.monotonic,
        is_replaceable: Callable[[], bool] = lambda: False,
    ) -> None:
        """`clock` tells seconds as `time.monotonic` does, which the worker reads too. `is_replaceable` is asked when the worker
        is lost: whether another one can have its items."""
        self._socket_path = socket_path
        self._timeout = timeout_seconds
        self._observer = observer
        self._clock = clock
        self._is_replaceable = is_replaceable
        self._items = Items()
        # None without a link.
        self._outbox: Outbox | None = None
        self._memories = Memories()
        self._heartbeat = Heartbeat(clock)
        self._keeper: asyncio.Task[None] | None = None
        self._slots = 0
        self._slots_in_use = 0

    @property
    def is_linked(self) -> bool:
        """Whether there is a worker."""
        return self._outbox is not None

    @property
    def slots(self) -> int:
        """Of the present worker, or the last one, as it said last."""
        return self._slots

    @property
    def slots_in_use(self) -> int:
        """As the worker said last, those of other fronts among them."""
        return self._slots_in_use

    async def connect(self) -> Hello:
        """Look for the worker until it says hello. From then on the link is kept up until `close`.

        Waits for as long as the worker takes to load its weights: the parent ends a worker that cannot.
        """
        hello: asyncio.Future[Hello] = asyncio.get_running_loop().create_future()
        self._keeper = asyncio.create_task(self._keep_linked(hello), name="worker link")
        return await asyncio.shield(hello)

    async def keep(self) -> None:
        """Wait for as long as the link is kept up. Raises WorkerChanged where that ends before `close`."""
        if self._keeper is not None:
            await asyncio.shield(self._keeper)

    async def close(self) -> None:
        """Give the link back. Items that still wait are refused with WorkerUnavailable."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        self._items.settle_all(WorkerUnavailable("the server is going away"))

    def is_ready(self) -> bool:
        """Whether the worker's device answered a ping lately, or was lost so lately that its restart is worth waiting for."""
        return self._heartbeat.is_ready

    async def submit(
        self,
        client: str,
        target: MemorySource,
        search: bytes,
        arrived_at: float | None = None,
        expires_at: float | None = None,
    ) -> Answer:
        """Find the target in its search crop (uint8 RGB, search_size squared, as bytes).

        `client` is whom the worker is fair to, `arrived_at` is now unless given. Raises FrameTooOld where its turn has not come
        by `expires_at`, WorkerUnavailable when the timeout has passed since the arrival, DeviceError where the worker cannot run
        this crop, PoisonedFrame where it died of it twice, LinkLost where another worker can have it. Cancelling the caller
        cancels the item.
        """
        self._memories.use(target)
        now = self._clock()
        arrived_at = now if arrived_at is None else arrived_at
        item = Item(client, target.memory_key, target.templates, search, arrived_at, expires_at)
        item_id = self._items.add(item)
        giving_up = asyncio.get_running_loop().call_later(arrived_at + self._timeout - now, self._give_up, item_id, item)
        self._post(item_id)
        try:
            return await item.answer
        finally:
            giving_up.cancel()
            self._items.remove(item_id)
            if item.answer.cancelled():
                self._post(Cancel(item_id))
            self._make_room((item_id,))

    def _give_up(self, item_id: int, item: Item) -> None:
        item.settle(WorkerUnavailable(f"no worker answered within {self._timeout:g} s"))
        self._post(Cancel(item_id))

    def release(self, memory_key: bytes) -> None:
        """One target has done with this memory: its templates have changed, or it is gone. The last one frees the slot.

        Targets that look at the same picture share a memory, so they are counted: each counts from its first `submit` with
        a key. One release too many costs another target a second encode, never its state.
        """
        if self._memories.release(memory_key):
            self._post(Release(memory_key))

    def _post(self, entry: int | ToWorker) -> None:
        if self._outbox is not None:
            self._outbox.post(entry)

    def _make_room(self, item_ids: Iterable[int]) -> None:
        if self._outbox is not None:
            self._outbox.make_room(item_ids)

    async def _keep_linked(self, first_hello: asyncio.Future[Hello]) -> None:
        while True:
            link = await self._open()
            try:
                hello = await greet(link, self._timeout)
                if first_hello.done():
                    check_same(hello, first_hello.result())
                else:
                    first_hello.set_result(hello)
                self._slots, self._slots_in_use = hello.slots, 0
                self._observer.on_hello(hello)
                await self._serve(link)
            except WorkerChanged:
                raise
            except OSError as error:
                _log.info("no link to %s: %r", self._socket_path, error)
                await asyncio.sleep(_RETRY_SECONDS)
            except Exception:  # noqa: BLE001 - whatever went wrong over a link ends with it: the items wait for the next one
                _log.exception("link to %s failed", self._socket_path)
                await asyncio.sleep(_RETRY_SECONDS)
            finally:
                link.close()

    async def _open(self) -> WorkerLink:
        while True:
            try:
                return await WorkerLink.open(self._socket_path)
            except OSError:
                await asyncio.sleep(_RETRY_SECONDS)

    async def _serve(self, link: WorkerLink) -> None:
        """One link, from its hello to its end."""
        self._outbox = Outbox(self._items.by_id, link)
        for item_id in self._items.by_id:
            self._outbox.post(item_id)
        beating = asyncio.create_task(self._heartbeat.beat(self._post))
        try:
            await link.listen(self._receive)
        finally:
            beating.cancel()
            self._lose()

    def _receive(self, message: ToFront) -> None:
        match message:
            case BatchStarted():
                self._items.begin(message.item_ids)
                self._make_room(message.item_ids)
            case Predicted():
                answer = Answer(
                    CropBox(*message.box), message.score, message.queue_seconds, message.backbone_seconds, message.batch_size
                )
                self._items.settle(message.item_id, answer)
            case Expired():
                self._items.settle(
                    message.item_id, FrameTooOld("its max_frame_age was over before its turn at the device came")
                )
            case Failed():
                self._items.settle(message.item_id, DeviceError(message.message))
            case MemoryMissing():
                self._items.give_back(message.item_id)
                self._observer.on_missing()
                if self._outbox is not None:
                    self._outbox.post_again(message.item_id)
            case BatchStats():
                self._slots, self._slots_in_use = message.slots, message.slots_in_use
                self._observer.on_stats(message)
            case Pong():
                self._heartbeat.on_answer()
                self._slots_in_use = message.slots_in_use
                self._observer.on_pong(message.slots_in_use)

    def _lose(self) -> None:
        """The link ended: nothing is known of the worker any more, and what was on its device is suspect."""
        self._observer.on_lost()
        self._heartbeat.on_lost()
        self._outbox = None
        self._items.lose(is_replaceable=self._is_replaceable())

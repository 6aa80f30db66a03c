"""Decoding in threads, within a budget of bytes for all pictures that are held at once."""

import asyncio
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

from model.crop import Image
from model.geometry import CropWindow
from service.config import Limits
from service.decode import Payload, RawImage, decode_rest, decode_top, picture_size
from service.errors import Overloaded
from service.headers import Size, has_short_header

_CHANNELS = 3

T = TypeVar("T")


class Decoded(NamedTuple):
    """A picture (uint8 RGB [H, W, 3]), how many of its rows are decoded, the time that took in the thread, and when it began."""

    image: Image
    rows: int
    seconds: float
    began_at: float

    def holds(self, windows: Iterable[CropWindow]) -> bool:
        """Whether all that the windows share with the frame is decoded."""
        height = len(self.image)
        return self.rows == height or all(min(window.top + window.side, height) <= self.rows for window in windows)


class ByteBudget:
    """Bytes that may be held at once. Who waits first is served first. Belongs to one event loop."""

    def __init__(self, total: int) -> None:
        self._free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def free(self) -> int:
        """Bytes that nobody holds."""
        return self._free

    def take_now(self, amount: int) -> bool:
        """Hold `amount` bytes until `give_back` if they are free and nobody waits; whether they were."""
        is_free = not self._waiting and amount <= self._free
        if is_free:
            self._free -= amount
        return is_free

    async def take(self, amount: int) -> None:
        """Wait until `amount` bytes are free, and hold them until `give_back`."""
        granted = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, granted))
        self._grant()
        try:
            await granted
        except asyncio.CancelledError:
            # Also without bytes to return: those behind may fit where this one did not.
            self.give_back(0 if granted.cancelled() else amount)
            raise

    def give_back(self, amount: int) -> None:
        """Return bytes that `take` gave."""
        self._free += amount
        self._grant()

    def _grant(self) -> None:
        while self._waiting:
            amount, granted = self._waiting[0]
            if not granted.done():
                if amount > self._free:
                    return
                self._free -= amount
                granted.set_result(None)
            self._waiting.popleft()


class DecodePool:
    """Decodes off the event loop. A picture counts against the budget from before its decoding until its memory is freed."""

    def __init__(self, limits: Limits, threads: int, wait_seconds: float) -> None:
        self._limits = limits
        self._wait_seconds = wait_seconds
        self._budget = ByteBudget(limits.decoded_bytes_budget)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    @property
    def free_bytes(self) -> int:
        """What is left of the budget."""
        return self._budget.free

    async def decode(self, payload: Payload, rows: int | None = None) -> Decoded:
        """The picture, or at least its first `rows` rows.

        Raises BadFrame and FrameTooLarge as `decode.decode` does, Overloaded where the budget stays full.
        """
        size = await self._size(payload)
        amount = size.width * size.height * _CHANNELS
        if not self._budget.take_now(amount):
            await self._wait_for_room(size, amount)
        running = self._threads.submit(_decode, payload, self._limits, size.height if rows is None else rows)
        running.add_done_callback(_Return(self._budget, amount, asyncio.get_running_loop()))
        return await asyncio.wrap_future(running)

    async def complete(self, payload: Payload, decoded: Decoded) -> Decoded:
        """The same picture with all its rows, in the memory that it has. Raises BadFrame where the rest cannot be decoded."""
        return await self.run(partial(_complete, payload, decoded))

    async def run(self, step: Callable[[], T]) -> T:
        """What `step` gives, done in one of the decoding threads: other work on pixels that is too long for the event loop."""
        return await asyncio.wrap_future(self._threads.submit(step))

    def close(self) -> None:
        """Give the threads back; pictures that nobody waits for any more are dropped."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def _size(self, payload: Payload) -> Size:
        if isinstance(payload, RawImage) or has_short_header(payload):
            return picture_size(payload, self._limits)
        return await self.run(partial(picture_size, payload, self._limits))

    async def _wait_for_room(self, size: Size, amount: int) -> None:
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._budget.take(amount)
        except TimeoutError:
            limit = f"decoded_bytes_budget {self._limits.decoded_bytes_budget}"
            raise Overloaded(f"frame of {size.width}x{size.height} found no room in {limit}") from None


def _decode(payload: Payload, limits: Limits, rows: int) -> Decoded:
    started = time.monotonic()
    top = decode_top(payload, limits, rows)
    return Decoded(top.image, top.rows, time.monotonic() - started, started)


def _complete(payload: Payload, decoded: Decoded) -> Decoded:
    started = time.monotonic()
    decode_rest(payload, decoded.image)
    return decoded._replace(rows=len(decoded.image), seconds=decoded.seconds + time.monotonic() - started)


@dataclass(frozen=True)
class _Return:
    """The one place where bytes go back: with the picture's memory, or at once where there came no picture.

    Not at the end of the call: who is cancelled while the thread decodes leaves a picture behind that nobody awaits.
    """

    budget: ByteBudget
    amount: int
    loop: asyncio.AbstractEventLoop

    def __call__(self, running: Future[Decoded]) -> None:
        if running.cancelled() or running.exception() is not None:
            self._return()
        else:
            weakref.finalize(running.result().image, self._return).atexit = False

    def _return(self) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.budget.give_back, self.amount)

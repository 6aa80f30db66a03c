"""All workers as the front sees them: every session has a home among them.

A session's home is the worker with the most free slots when its first crop is sent. While that worker is lost the session is a
guest of another one, which makes its memories again from the front's crops; when the worker is back, so is the session. Other
sessions stay where they are. A crop that was on the device when its worker died waits for that very worker: it may have killed
it, and must not kill another.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol
from weakref import WeakKeyDictionary

from service.front.workers.engine import Engine
from service.front.workers.hello import check_same
from service.front.workers.items import Answer, LinkLost
from service.front.workers.memories import MemorySource
from service.front.workers.observer import EngineObserver
from service.messages import Hello


class Owner(Protocol):
    """What the fleet needs of a session. `client` is whom the workers are fair to."""

    @property
    def client(self) -> str: ...


class Fleet:
    """One engine a worker. Everything runs on one event loop."""

    def __init__(
        self, paths: Sequence[str], timeout_seconds: float, observers: Sequence[EngineObserver], clock: Callable[[], float]
    ) -> None:
        """A path and an observer for every worker; `clock` tells seconds as `time.monotonic` does."""
        self._clock = clock
        self._engines = [
            Engine(path, timeout_seconds, observer, clock, self._has_any)
            for path, observer in zip(paths, observers, strict=True)
        ]
        self._homes: WeakKeyDictionary[Owner, Engine] = WeakKeyDictionary()
        self._guests: WeakKeyDictionary[Owner, Engine] = WeakKeyDictionary()
        self._greetings: list[asyncio.Task[Hello]] = []

    async def connect(self) -> Hello:
        """What the first worker that answers runs. The others join as they come."""
        self._greetings = [asyncio.create_task(engine.connect()) for engine in self._engines]
        done, _ = await asyncio.wait(self._greetings, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()

    async def keep(self) -> None:
        """Wait for as long as the links are kept up. Raises WorkerChanged where a worker runs something else than the first."""
        first = next(greeting.result() for greeting in self._greetings if greeting.done())
        pairs = zip(self._greetings, self._engines, strict=True)
        await asyncio.gather(*(_keep(greeting, engine, first) for greeting, engine in pairs))

    async def close(self) -> None:
        """Give the links back. Items that still wait are refused with WorkerUnavailable."""
        for greeting in self._greetings:
            greeting.cancel()
        await asyncio.gather(*(engine.close() for engine in self._engines))

    def is_ready(self) -> bool:
        """Whether any worker's device answered lately, or is worth waiting for."""
        return any(engine.is_ready() for engine in self._engines)

    async def submit(self, owner: Owner, target: MemorySource, search: bytes, expires_at: float | None) -> Answer:
        """Find one of the owner's targets in its search crop. Raises what Engine.submit does, but LinkLost."""
        arrived_at = self._clock()
        while True:
            try:
                return await self._engine_of(owner).submit(owner.client, target, search, arrived_at, expires_at)
            except LinkLost:
                continue

    def release(self, memory_key: bytes) -> None:
        """One target has done with this memory, wherever it is."""
        for engine in self._engines:
            engine.release(memory_key)

    def _engine_of(self, owner: Owner) -> Engine:
        home = self._homes.get(owner)
        if home is None:
            home = self._homes[owner] = self._roomiest() or self._engines[0]
        if home.is_linked or not self._has_any():
            self._guests.pop(owner, None)
            return home
        guest = self._guests.get(owner)
        if guest is None or not guest.is_linked:
            guest = self._guests[owner] = self._roomiest() or home
        return guest

    def _roomiest(self) -> Engine | None:
        """The linked worker with the most free slots; with as many, the one where we have placed the fewest. None without any.

        What a worker says of its slots comes late, and what we placed there may not have sent anything yet: the larger counts.
        """
        ours = Counter([*self._homes.values(), *self._guests.values()])
        return max(
            (engine for engine in self._engines if engine.is_linked),
            key=lambda engine: (engine.slots - max(engine.slots_in_use, ours[engine]), -ours[engine]),
            default=None,
        )

    def _has_any(self) -> bool:
        return any(engine.is_linked for engine in self._engines)


async def _keep(greeting: asyncio.Task[Hello], engine: Engine, first: Hello) -> None:
    check_same(await greeting, first)
    await engine.keep()

"""Several workers: where a session's crops go, and what a worker's death moves."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from scripted_worker import HELLO, PATIENCE_SECONDS, ScriptedWorker
from tiny import FakeTarget, Observed

from service.front.workers.fleet import Fleet
from service.front.workers.hello import WorkerChanged
from service.front.workers.items import Answer
from service.messages import BatchStarted, BatchStats, Message, Ping, Pong, Release, TrackItem


@dataclass(eq=False)
class Owner:
    """A session, as far as the fleet knows one."""

    client: str = "alice"


@dataclass(frozen=True)
class Site:
    """A fleet of two workers that say what a test has them say."""

    fleet: Fleet
    workers: tuple[ScriptedWorker, ScriptedWorker]
    observed: tuple[Observed, Observed]

    def submit(self, owner: Owner, number: int) -> asyncio.Task[Answer]:
        return asyncio.create_task(self.fleet.submit(owner, target(number), bytes([number]), None))

    async def track(self, owner: Owner, number: int, worker: int) -> None:
        """One crop, which this worker must get."""
        task = self.submit(owner, number)
        item = await self.workers[worker].hear(TrackItem)
        assert item.search == bytes([number])
        self.workers[worker].answer(item)
        await task

    async def lose(self, worker: int) -> None:
        """The worker vanishes."""
        await self.workers[worker].stop()
        await until(lambda: self.observed[worker].events[-1:] == ["lost"])

    async def bring_back(self, worker: int) -> None:
        await self.workers[worker].start()
        await until(lambda: self.observed[worker].events[-1:] == ["reconnect"])


@cache
def target(number: int) -> FakeTarget:
    """One and the same target for a number, as a session has it."""
    return FakeTarget(number)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.001)


async def sited(folder: Path, second: Message = HELLO) -> Site:
    paths = [folder / f"{number}.sock" for number in range(2)]
    first, other = ScriptedWorker(paths[0]), ScriptedWorker(paths[1], second)
    observed = Observed(), Observed()
    fleet = Fleet([str(path) for path in paths], PATIENCE_SECONDS, observed, time.monotonic)
    await first.start()
    assert await fleet.connect() == HELLO
    await other.start()
    await until(lambda: bool(observed[1].hellos))
    return Site(fleet, (first, other), observed)


async def close(site: Site) -> None:
    await site.fleet.close()
    for worker in site.workers:
        await worker.stop()


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = await sited(tmp_path)
    yield made
    await close(made)


async def test_sessions_are_spread_and_stay_where_they_are(site: Site) -> None:
    owners = [Owner() for _ in range(4)]
    for _ in range(2):
        for number, owner in enumerate(owners):
            await site.track(owner, number, worker=number % 2)


async def test_a_session_goes_where_most_slots_are_free(site: Site) -> None:
    ping = await site.workers[0].hear(Ping)
    site.workers[0].say(Pong(ping.ping_id, 3))
    await until(lambda: site.observed[0].pongs == [3])
    owners = [Owner() for _ in range(4)]
    for number, owner in enumerate(owners):
        await site.track(owner, number, worker=1 if number < 3 else 0)


async def test_a_worker_with_more_slots_gets_more_sessions(tmp_path: Path) -> None:
    site = await sited(tmp_path, msgspec.structs.replace(HELLO, slots=HELLO.slots + 2))
    owners = [Owner() for _ in range(3)]
    for number, owner in enumerate(owners):
        await site.track(owner, number, worker=1 if number < 2 else 0)
    await close(site)


async def test_a_worker_that_gave_slots_back_gets_fewer_sessions(site: Site) -> None:
    site.workers[0].say(BatchStats(1, 1, {}, 0.001, 0, 0.0, 0, 0, slots=HELLO.slots - 2, max_batch=HELLO.max_batch))
    await until(lambda: bool(site.observed[0].stats))
    owners = [Owner() for _ in range(3)]
    for number, owner in enumerate(owners):
        await site.track(owner, number, worker=1 if number < 2 else 0)


async def test_a_death_moves_its_own_sessions_and_they_come_back(site: Site) -> None:
    owners = [Owner(), Owner()]
    for number, owner in enumerate(owners):
        await site.track(owner, number, worker=number)
    await site.lose(0)
    for number, owner in enumerate(owners):
        await site.track(owner, number, worker=1)
    await site.bring_back(0)
    for number, owner in enumerate(owners):
        await site.track(owner, number, worker=number)


async def test_a_crop_that_waited_at_a_dead_worker_goes_to_another_with_its_first_arrival(site: Site) -> None:
    owner = Owner()
    task = site.submit(owner, 1)
    before = await site.workers[0].hear(TrackItem)
    await site.lose(0)
    after = await site.workers[1].hear(TrackItem)
    assert (after.search, len(after.templates), after.arrived_at) == (before.search, 2, before.arrived_at)
    site.workers[1].answer(after)
    await task


async def test_a_crop_that_was_on_the_device_waits_for_its_own_worker(site: Site) -> None:
    owner = Owner()
    task = site.submit(owner, 1)
    item = await site.workers[0].hear(TrackItem)
    site.workers[0].say(BatchStarted((item.item_id,)))
    await site.lose(0)
    await site.bring_back(0)
    again = await site.workers[0].hear(TrackItem)
    assert again.alone
    site.workers[0].answer(again)
    await task
    assert site.workers[1].heard_nothing_but(Ping)


async def test_without_any_worker_a_crop_waits_for_the_first_that_has_it(site: Site) -> None:
    owner = Owner()
    await site.track(owner, 1, worker=0)
    await site.lose(0)
    await site.lose(1)
    task = site.submit(owner, 1)
    await site.bring_back(0)
    site.workers[0].answer(await site.workers[0].hear(TrackItem))
    await task


async def test_a_memory_is_released_wherever_it_was_made(site: Site) -> None:
    owner = Owner()
    await site.track(owner, 1, worker=0)
    await site.lose(0)
    await site.track(owner, 1, worker=1)
    await site.bring_back(0)
    await site.track(owner, 1, worker=0)
    site.fleet.release(target(1).memory_key)
    for worker in site.workers:
        assert await worker.hear(Release) == Release(target(1).memory_key)


async def test_it_is_ready_while_one_worker_is(site: Site) -> None:
    assert not site.fleet.is_ready()
    ping = await site.workers[1].hear(Ping)
    site.workers[1].say(Pong(ping.ping_id, 0))
    await until(site.fleet.is_ready)


async def test_workers_of_different_networks_end_it(tmp_path: Path) -> None:
    site = await sited(tmp_path, msgspec.structs.replace(HELLO, device="cuda:1", weights_sha256="other"))
    with pytest.raises(WorkerChanged, match=r"weights_sha256 '' is now 'other'$"):
        async with asyncio.timeout(PATIENCE_SECONDS):
            await site.fleet.keep()
    await close(site)

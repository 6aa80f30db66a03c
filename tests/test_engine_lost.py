"""A worker that is lost, and what becomes of what it had: against a worker whose every word is written here."""

import asyncio

import msgspec
import pytest
from fake_front import FakeTime
from scripted_worker import HELLO, PATIENCE_SECONDS, ScriptedWorker, fate, submit
from tiny import FakeTarget, Observed

from service.errors import PoisonedFrame, WorkerUnavailable
from service.front.workers.engine import Engine
from service.front.workers.hello import WorkerChanged
from service.front.workers.items import Answer
from service.messages import (
    BatchStarted,
    BatchStats,
    MemoryMissing,
    Ping,
    Pong,
    TrackItem,
)


async def test_an_unanswered_item_outlives_its_worker(
    engine: Engine, worker: ScriptedWorker, observed: Observed, clock: FakeTime
) -> None:
    target = FakeTarget(1)
    task = submit(engine, target)
    before = await worker.hear(TrackItem)
    clock.now += 5
    worker.hang_up()
    after = await worker.hear(TrackItem)
    worker.answer(after)
    assert isinstance(await fate(task), Answer)
    assert after == before, "same id, templates and arrival time, and not alone: it was never on the device"
    assert observed.events == ["lost", "reconnect"]


async def test_a_worker_that_runs_something_else_ends_the_engine_and_gets_no_item(
    engine: Engine, worker: ScriptedWorker, observed: Observed
) -> None:
    task = submit(engine, FakeTarget(1))
    await worker.hear(TrackItem)
    worker.restart_with(msgspec.structs.replace(HELLO, pid=2, search_size=224, weights_sha256="other"))
    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(WorkerChanged, match=r"weights_sha256 '' is now 'other', search_size 256 is now 224$"):
            await engine.keep()
    assert worker.heard_nothing_but(Ping)
    assert observed.events == ["lost"]
    await engine.close()
    assert isinstance(await fate(task), WorkerUnavailable)


async def test_a_worker_with_other_slots_is_the_same(engine: Engine, worker: ScriptedWorker) -> None:
    task = submit(engine, FakeTarget(1))
    await worker.hear(TrackItem)
    worker.restart_with(msgspec.structs.replace(HELLO, pid=2, slots=2, max_batch=2))
    worker.answer(await worker.hear(TrackItem))
    assert isinstance(await fate(task), Answer)


async def test_an_item_sent_while_there_is_no_worker_waits_for_one(
    engine: Engine, worker: ScriptedWorker, observed: Observed
) -> None:
    await worker.stop()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while "lost" not in observed.events:
            await asyncio.sleep(0)
    task = submit(engine, FakeTarget(1))
    await asyncio.sleep(0)
    await worker.start()
    worker_item = await worker.hear(TrackItem)
    worker.answer(worker_item)
    assert isinstance(await fate(task), Answer)


async def test_only_items_on_the_device_at_a_death_are_tried_alone(engine: Engine, worker: ScriptedWorker) -> None:
    tasks = [submit(engine, FakeTarget(number), bytes([number])) for number in (1, 2, 3)]
    items = [await worker.hear(TrackItem) for _ in tasks]
    worker.say(BatchStarted((items[0].item_id, items[1].item_id)))
    worker.answer(items[0])
    worker.hang_up()
    again = [await worker.hear(TrackItem) for _ in range(2)]
    assert [(item.search, item.alone) for item in again] == [(b"\x02", True), (b"\x03", False)]
    for item in again:
        worker.answer(item)
    assert all([isinstance(await fate(task), Answer) for task in tasks])


async def test_a_frame_that_kills_twice_is_refused_and_the_others_survive(engine: Engine, worker: ScriptedWorker) -> None:
    poisoned, innocent = (submit(engine, FakeTarget(number), bytes([number])) for number in (1, 2))
    items = [await worker.hear(TrackItem) for _ in range(2)]
    worker.say(BatchStarted((items[0].item_id, items[1].item_id)))
    worker.hang_up()
    second = {item.search: item for item in [await worker.hear(TrackItem) for _ in range(2)]}
    worker.say(BatchStarted((second[b"\x01"].item_id,)))
    worker.hang_up()
    last = await worker.hear(TrackItem)
    worker.answer(last)
    assert isinstance(await fate(poisoned), PoisonedFrame)
    assert isinstance(await fate(innocent), Answer)
    assert last.search == b"\x02"


async def test_an_item_that_was_given_back_is_on_the_device_no_more(engine: Engine, worker: ScriptedWorker) -> None:
    task = submit(engine, FakeTarget(1))
    for _ in range(3):
        item = await worker.hear(TrackItem)
        assert not item.alone
        worker.say(BatchStarted((item.item_id,)), MemoryMissing(item.item_id))
        await worker.hear(TrackItem)  # with its templates
        worker.hang_up()
    worker.answer(await worker.hear(TrackItem))
    assert isinstance(await fate(task), Answer)


async def test_the_last_words_of_a_worker_count_though_we_were_writing_to_it(engine: Engine, worker: ScriptedWorker) -> None:
    first = submit(engine, FakeTarget(1), b"\x01")
    item = await worker.hear(TrackItem)
    worker.say(BatchStarted((item.item_id,)))
    worker.hang_up()
    # Far more than the socket holds, so that writing fails before the last words are read.
    others = [submit(engine, FakeTarget(number), bytes([number]) * 1_000_000) for number in (2, 3, 4)]
    again = {item.search[0]: item for item in [await worker.hear(TrackItem) for _ in range(4)]}
    assert {number: item.alone for number, item in again.items()} == {1: True, 2: False, 3: False, 4: False}
    for item in again.values():
        worker.answer(item)
    assert all([isinstance(await fate(task), Answer) for task in (first, *others)])


async def test_an_error_of_the_observer_costs_a_link_and_no_item(
    engine: Engine, worker: ScriptedWorker, observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = submit(engine, FakeTarget(1))
    await worker.hear(TrackItem)
    with monkeypatch.context() as patch:
        patch.delattr(Observed, "on_stats")
        worker.say(BatchStats(1, 1, {"all": 0.02}, 0.001, 1, 0.004, 1, 0, 8, 4))
        again = await worker.hear(TrackItem)
    worker.answer(again)
    assert isinstance(await fate(task), Answer)
    assert observed.events == ["lost", "reconnect"]


async def test_an_item_that_cannot_be_sent_costs_a_link_and_the_front_is_heard_again(
    engine: Engine, worker: ScriptedWorker, observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("service.front.workers.outbox.TrackItem", no_memory)
        task = submit(engine, FakeTarget(1))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not observed.events:
                await asyncio.sleep(0)
    worker.answer(await worker.hear(TrackItem))
    assert isinstance(await fate(task), Answer)
    assert observed.events == ["lost", "reconnect"]


async def test_ready_lasts_as_long_as_pongs_come_and_over_a_restart(
    engine: Engine, worker: ScriptedWorker, observed: Observed, clock: FakeTime
) -> None:
    assert not engine.is_ready()
    ping = await worker.hear(Ping)
    task = submit(engine, FakeTarget(1))
    item = await worker.hear(TrackItem)
    worker.say(Pong(ping.ping_id, 0))
    worker.answer(item)
    await fate(task)
    assert engine.is_ready()
    worker.hang_up()
    await worker.hear(Ping)
    clock.now += 25
    assert engine.is_ready()
    clock.now += 10
    assert not engine.is_ready()

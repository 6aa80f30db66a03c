"""The front's side of the link, against a worker whose every word is written here."""

import asyncio
from pathlib import Path

import msgspec
import pytest
from fake_front import FakeTime
from scripted_worker import HELLO, PATIENCE_SECONDS, ScriptedWorker, fate, submit
from tiny import FakeTarget, Observed

from model.geometry import CropBox
from service.errors import DeviceError, FrameTooOld, WorkerUnavailable
from service.front.workers.engine import Engine
from service.front.workers.items import Answer
from service.messages import (
    PROTOCOL_VERSION,
    BatchStarted,
    BatchStats,
    Cancel,
    Expired,
    Failed,
    MemoryMissing,
    Message,
    Ping,
    Pong,
    Predicted,
    Release,
    TrackItem,
)


async def test_connect_gives_the_hello(worker: ScriptedWorker, tmp_path: Path) -> None:
    engine = Engine(str(tmp_path / "worker.sock"), PATIENCE_SECONDS, Observed())
    assert await engine.connect() == HELLO
    await engine.close()


async def test_connect_waits_for_a_worker_that_is_not_there_yet(tmp_path: Path) -> None:
    engine = Engine(str(tmp_path / "late.sock"), PATIENCE_SECONDS, Observed())
    connecting = asyncio.create_task(engine.connect())
    await asyncio.sleep(0)
    late = ScriptedWorker(tmp_path / "late.sock")
    await late.start()
    assert await connecting == HELLO
    await engine.close()
    await late.stop()


async def test_an_item_gets_its_own_answer(engine: Engine, worker: ScriptedWorker) -> None:
    tasks = [submit(engine, FakeTarget(number), bytes([number])) for number in (1, 2)]
    items = [await worker.hear(TrackItem) for _ in tasks]
    for item in reversed(items):
        worker.answer(item)
    expected = [Answer(CropBox(0.5, 0.5, number / 256, 0.25), 0.75, 0.01, 0.02, 3) for number in (1, 2)]
    assert [await fate(task) for task in tasks] == expected


async def test_templates_go_with_the_first_item_of_a_memory_only(engine: Engine, worker: ScriptedWorker) -> None:
    target = FakeTarget(1)
    sent = []
    for _ in range(2):
        task = submit(engine, target)
        sent.append(await worker.hear(TrackItem))
        worker.answer(sent[-1])
        await fate(task)
    assert [item.templates for item in sent] == [tuple(crop.tobytes() for crop in target.templates), ()]
    assert [item.memory_key for item in sent] == [target.memory_key] * 2


async def test_an_item_whose_memory_is_missing_is_sent_again_with_templates(
    engine: Engine, worker: ScriptedWorker, observed: Observed, clock: FakeTime
) -> None:
    target = FakeTarget(1)
    first = submit(engine, target)
    worker.answer(await worker.hear(TrackItem))
    await fate(first)
    second = submit(engine, target)
    bare = await worker.hear(TrackItem)
    clock.now += 5
    worker.say(MemoryMissing(bare.item_id))
    again = await worker.hear(TrackItem)
    worker.answer(again)
    assert isinstance(await fate(second), Answer)
    assert (bare.templates, len(again.templates), again.arrived_at) == ((), 2, bare.arrived_at)
    assert observed.events == ["missing"]


async def test_an_item_that_expired_at_the_worker_is_too_old(engine: Engine, worker: ScriptedWorker, clock: FakeTime) -> None:
    task = asyncio.create_task(engine.submit("alice", FakeTarget(1), b"\x40crop", expires_at=clock.now + 2))
    item = await worker.hear(TrackItem)
    assert item.expires_at == clock.now + 2
    worker.say(Expired(item.item_id))
    assert isinstance(await fate(task), FrameTooOld)


async def test_a_refused_item_is_a_device_error(engine: Engine, worker: ScriptedWorker) -> None:
    task = submit(engine, FakeTarget(1))
    item = await worker.hear(TrackItem)
    worker.say(Failed(item.item_id, "out of memory"))
    outcome = await fate(task)
    assert isinstance(outcome, DeviceError)
    assert str(outcome) == "out of memory"


async def test_a_cancelled_item_is_cancelled_at_the_worker(engine: Engine, worker: ScriptedWorker) -> None:
    task = submit(engine, FakeTarget(1))
    item = await worker.hear(TrackItem)
    task.cancel()
    assert await worker.hear(Cancel) == Cancel(item.item_id)
    worker.answer(item)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_item_that_is_cancelled_before_it_is_sent_is_never_sent(engine: Engine, worker: ScriptedWorker) -> None:
    # The first is far larger than the socket holds, so the others queue behind it.
    crops = (bytes(5_000_000), b"\x01", b"\x02")
    large, cancelled, kept = (submit(engine, FakeTarget(number), crop) for number, crop in enumerate(crops))
    await asyncio.sleep(0)
    cancelled.cancel()
    items = [await worker.hear(TrackItem) for _ in range(2)]
    assert [item.search[:1] for item in items] == [b"\x00", b"\x02"]
    for item in items:
        worker.answer(item)
    assert all([isinstance(await fate(task), Answer) for task in (large, kept)])


async def fill(engine: Engine, worker: ScriptedWorker, crops: int) -> tuple[list[asyncio.Task[Answer]], list[TrackItem]]:
    """So many crops of one client, and the two of them that wait at the worker, where there are places for no more."""
    tasks = [submit(engine, FakeTarget(number), bytes([number])) for number in range(crops)]
    return tasks, [await worker.hear(TrackItem) for _ in range(2)]


async def test_clients_take_turns_for_the_places_at_a_worker(
    engine: Engine, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.front.workers.outbox.MAX_WAITING_ITEMS", 2)
    greedy, sent = await fill(engine, worker, 5)
    modest = submit(engine, FakeTarget(9), b"\x09", client="bob")
    for _ in range(3):
        worker.say(BatchStarted(tuple(item.item_id for item in sent[-2:])))
        sent += [await worker.hear(TrackItem) for _ in range(min(2, 6 - len(sent)))]
    assert [item.search[0] for item in sent] == [0, 1, 2, 9, 3, 4]
    for item in sent:
        worker.answer(item)
    assert all([isinstance(await fate(task), Answer) for task in (*greedy, modest)])


async def test_what_a_cancelled_item_leaves_is_anothers_place(
    engine: Engine, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.front.workers.outbox.MAX_WAITING_ITEMS", 2)
    tasks, sent = await fill(engine, worker, 5)
    tasks[2].cancel()
    tasks[1].cancel()
    assert await worker.hear(Cancel) == Cancel(sent[1].item_id + 1)
    assert await worker.hear(Cancel) == Cancel(sent[1].item_id)
    sent.append(await worker.hear(TrackItem))
    worker.say(Failed(sent[0].item_id, "out of memory"))
    sent.append(await worker.hear(TrackItem))
    assert [item.search[0] for item in sent] == [0, 1, 3, 4]


async def test_messages_go_past_items_that_wait_for_a_place(
    engine: Engine, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.front.workers.outbox.MAX_WAITING_ITEMS", 2)
    monkeypatch.setattr("service.front.workers.heartbeat._PING_SECONDS", 0.0)
    ping = await worker.hear(Ping)
    _, sent = await fill(engine, worker, 3)
    engine.release(sent[0].memory_key)
    assert await worker.hear(Release) == Release(sent[0].memory_key)
    worker.say(Pong(ping.ping_id, 2))
    assert await worker.hear(Ping) == Ping(ping.ping_id + 1)
    worker.say(BatchStarted((sent[0].item_id,)))
    assert (await worker.hear(TrackItem)).search == b"\x02"


async def test_an_item_whose_memory_is_missing_gives_its_place_up(
    engine: Engine, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.front.workers.outbox.MAX_WAITING_ITEMS", 2)
    _, sent = await fill(engine, worker, 3)
    worker.say(MemoryMissing(sent[0].item_id))
    assert (await worker.hear(TrackItem)).search == b"\x02"
    worker.say(BatchStarted((sent[1].item_id,)))
    again = await worker.hear(TrackItem)
    assert (again.item_id, len(again.templates)) == (sent[0].item_id, 2)


async def test_a_worker_that_never_answers_is_unavailable(worker: ScriptedWorker, tmp_path: Path) -> None:
    engine = Engine(str(tmp_path / "worker.sock"), 0.05, Observed())
    await engine.connect()
    outcome = await fate(submit(engine, FakeTarget(1)))
    assert isinstance(outcome, WorkerUnavailable)
    item = await worker.hear(TrackItem)
    assert await worker.hear(Cancel) == Cancel(item.item_id)
    await engine.close()


async def test_closing_refuses_what_waits(engine: Engine, worker: ScriptedWorker) -> None:
    task = submit(engine, FakeTarget(1))
    await worker.hear(TrackItem)
    await engine.close()
    assert isinstance(await fate(task), WorkerUnavailable)


async def test_the_last_target_of_a_memory_releases_it(engine: Engine, worker: ScriptedWorker) -> None:
    for target in (FakeTarget(1), FakeTarget(1), FakeTarget(2)):
        task = submit(engine, target)
        worker.answer(await worker.hear(TrackItem))
        await fate(task)
    engine.release(FakeTarget(1).memory_key)
    engine.release(FakeTarget(2).memory_key)
    assert await worker.hear(Release) == Release(FakeTarget(2).memory_key)
    engine.release(FakeTarget(1).memory_key)
    assert await worker.hear(Release) == Release(FakeTarget(1).memory_key)


async def test_a_memory_that_was_released_comes_with_its_templates_again(engine: Engine, worker: ScriptedWorker) -> None:
    for _ in range(2):
        task = submit(engine, FakeTarget(1))
        item = await worker.hear(TrackItem)
        assert len(item.templates) == 2
        worker.answer(item)
        await fate(task)
        engine.release(FakeTarget(1).memory_key)


async def test_what_was_never_sent_is_not_released(engine: Engine, worker: ScriptedWorker) -> None:
    engine.release(FakeTarget(1).memory_key)
    task = submit(engine, FakeTarget(2))
    worker.answer(await worker.hear(TrackItem))
    await fate(task)
    assert worker.heard_nothing_but(Ping)


async def test_a_memory_is_released_though_an_item_that_missed_it_was_never_sent_again(
    engine: Engine, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.front.workers.outbox.MAX_WAITING_ITEMS", 2)
    tasks = [submit(engine, FakeTarget(1)) for _ in range(2)]
    sent = [await worker.hear(TrackItem) for _ in tasks]
    # The first comes again with templates, the second finds no place before its caller leaves.
    worker.say(MemoryMissing(sent[0].item_id))
    assert len((await worker.hear(TrackItem)).templates) == 2
    submit(engine, FakeTarget(2))
    worker.say(MemoryMissing(sent[1].item_id))
    await worker.hear(TrackItem)
    tasks[1].cancel()
    await worker.hear(Cancel)
    for _ in tasks:
        engine.release(FakeTarget(1).memory_key)
    assert await worker.hear(Release) == Release(FakeTarget(1).memory_key)


async def test_an_answer_to_nobody_is_ignored(engine: Engine, worker: ScriptedWorker) -> None:
    worker.say(Predicted(99, (0, 0, 0, 0), None, 0, 0, 1), Failed(98, ""), MemoryMissing(97), BatchStarted((96,)))
    task = submit(engine, FakeTarget(1))
    worker.answer(await worker.hear(TrackItem))
    assert isinstance(await fate(task), Answer)


async def test_stats_and_pongs_reach_the_observer(engine: Engine, worker: ScriptedWorker, observed: Observed) -> None:
    stats = BatchStats(2, 4, {"all": 0.02}, 0.001, 1, 0.004, 3, 0, 8, 4)
    ping = await worker.hear(Ping)
    task = submit(engine, FakeTarget(1))
    item = await worker.hear(TrackItem)
    worker.say(Pong(ping.ping_id, 5), stats)
    worker.answer(item)
    await fate(task)
    assert (observed.pongs, observed.stats) == ([5], [stats])


async def test_a_silent_device_is_not_ready(
    engine: Engine, worker: ScriptedWorker, observed: Observed, clock: FakeTime
) -> None:
    ping = await worker.hear(Ping)
    worker.say(Pong(ping.ping_id, 0))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not observed.pongs:
            await asyncio.sleep(0)
    clock.now += 11
    assert not engine.is_ready()


@pytest.mark.parametrize("stranger", [Pong(1, 0), msgspec.structs.replace(HELLO, protocol_version=PROTOCOL_VERSION + 1)])
async def test_a_worker_of_another_protocol_is_refused(tmp_path: Path, stranger: Message) -> None:
    path = tmp_path / "strange.sock"
    strange = ScriptedWorker(path, stranger)
    await strange.start()
    engine = Engine(str(path), PATIENCE_SECONDS, Observed())
    connecting = asyncio.create_task(engine.connect())
    await strange.left.wait()
    assert not connecting.done()
    await strange.stop()
    right = ScriptedWorker(path)
    await right.start()
    assert await connecting == HELLO
    await engine.close()
    await right.stop()

"""The front's side of the link, against a worker whose every word is written here."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from scripted_worker import HELLO, PATIENCE_SECONDS, ScriptedWorker
from tiny import FakeTarget, Observed

from model.geometry import CropBox
from service.errors import DeviceError, FrameTooOld, PoisonedFrame, ServiceError, WorkerUnavailable
from service.front.workers.engine import Answer, Engine
from service.front.workers.hello import WorkerChanged
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


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest_asyncio.fixture
async def worker(tmp_path: Path) -> AsyncIterator[ScriptedWorker]:
    scripted = ScriptedWorker(tmp_path / "worker.sock")
    await scripted.start()
    yield scripted
    await scripted.stop()


@pytest.fixture
def observed() -> Observed:
    return Observed()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture
async def engine(worker: ScriptedWorker, tmp_path: Path, observed: Observed, clock: Clock) -> AsyncIterator[Engine]:
    engine = Engine(str(tmp_path / "worker.sock"), PATIENCE_SECONDS, observed, clock)
    await engine.connect()
    yield engine
    await engine.close()


def submit(engine: Engine, target: FakeTarget, crop: bytes = b"\x40crop", client: str = "alice") -> asyncio.Task[Answer]:
    return asyncio.create_task(engine.submit(client, target, crop))


async def fate(task: asyncio.Task[Answer]) -> Answer | ServiceError:
    """How a submit ended."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(outcome, Answer | ServiceError), outcome
    return outcome


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
    engine: Engine, worker: ScriptedWorker, observed: Observed, clock: Clock
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


async def test_an_item_that_expired_at_the_worker_is_too_old(engine: Engine, worker: ScriptedWorker, clock: Clock) -> None:
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


async def test_an_unanswered_item_outlives_its_worker(
    engine: Engine, worker: ScriptedWorker, observed: Observed, clock: Clock
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


async def test_an_answer_to_nobody_is_ignored(engine: Engine, worker: ScriptedWorker) -> None:
    worker.say(Predicted(99, (0, 0, 0, 0), None, 0, 0, 1), Failed(98, ""), MemoryMissing(97), BatchStarted((96,)))
    task = submit(engine, FakeTarget(1))
    worker.answer(await worker.hear(TrackItem))
    assert isinstance(await fate(task), Answer)


async def test_stats_and_pongs_reach_the_observer(engine: Engine, worker: ScriptedWorker, observed: Observed) -> None:
    stats = BatchStats(2, 4, {"all": 0.02}, 0.001, 1, 0.004, 3, 0)
    ping = await worker.hear(Ping)
    task = submit(engine, FakeTarget(1))
    item = await worker.hear(TrackItem)
    worker.say(Pong(ping.ping_id, 5), stats)
    worker.answer(item)
    await fate(task)
    assert (observed.pongs, observed.stats) == ([5], [stats])


async def test_an_error_of_the_observer_costs_a_link_and_no_item(
    engine: Engine, worker: ScriptedWorker, observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = submit(engine, FakeTarget(1))
    await worker.hear(TrackItem)
    with monkeypatch.context() as patch:
        patch.delattr(Observed, "on_stats")
        worker.say(BatchStats(1, 1, {"all": 0.02}, 0.001, 1, 0.004, 1, 0))
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
    engine: Engine, worker: ScriptedWorker, observed: Observed, clock: Clock
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


async def test_a_silent_device_is_not_ready(engine: Engine, worker: ScriptedWorker, observed: Observed, clock: Clock) -> None:
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

"""The worker: its step on a real (tiny) network."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import tiny
from attached import PATIENCE_SECONDS, Attached, Front, item

from service.link import FrontLink
from service.messages import (
    BatchStarted,
    BatchStats,
    Cancel,
    Expired,
    Failed,
    Hello,
    MemoryMissing,
    Ping,
    Pong,
    Predicted,
    Release,
    TrackItem,
)
from service.pulse import Pulse
from service.worker.runner import Runner
from service.worker.worker import Worker


@pytest.fixture(scope="module")
def runner(tiny_weights: Path) -> Runner:
    return Runner(tiny.settings(tiny_weights, slots=3, max_batch=3))


@pytest.fixture
def worker(runner: Runner) -> Worker:
    return Worker(runner, max_encodes=2, pulse=Pulse(PATIENCE_SECONDS), clock=lambda: 100.0)


@pytest.fixture
def front(worker: Worker) -> Iterator[Attached]:
    attached = Attached(worker)
    yield attached
    attached.socket.close()


def test_a_step_says_what_is_at_risk_then_the_answers_then_what_it_took(worker: Worker, front: Attached) -> None:
    front.say(item(1, 1), item(2, 2))
    worker.step()
    started, first, second, stats = front.hear_all(BatchStarted, Predicted, Predicted, BatchStats)
    assert started == BatchStarted((1, 2))
    assert isinstance(first, Predicted) and isinstance(second, Predicted) and isinstance(stats, BatchStats)
    assert (first.item_id, second.item_id, first.batch_size, first.queue_seconds) == (1, 2, 2, 0.5)
    assert (stats.batch_size, stats.encoded, stats.slots_in_use, stats.evictions) == (2, 2, 2, 0)


def test_a_memory_that_is_held_needs_no_templates(worker: Worker, front: Attached) -> None:
    front.say(item(1, 1))
    worker.step()
    front.hear_all(BatchStarted, Predicted, BatchStats)
    front.say(item(2, 1, brings=False))
    worker.step()
    *_, stats = front.hear_all(BatchStarted, Predicted, BatchStats)
    assert isinstance(stats, BatchStats)
    assert stats.encoded == 0


def test_a_memory_that_is_unknown_is_missing_at_once(worker: Worker, front: Attached) -> None:
    front.say(item(1, 1, brings=False))
    worker.step()
    assert front.hear() == MemoryMissing(1)


def test_an_evicted_memory_is_missing_and_can_be_brought_again(worker: Worker, front: Attached) -> None:
    for number in (1, 2, 3, 4):
        front.say(item(number, number))
        worker.step()
        *_, stats = front.hear_all(BatchStarted, Predicted, BatchStats)
    assert isinstance(stats, BatchStats)
    assert (stats.slots_in_use, stats.evictions) == (3, 1)
    front.say(item(5, 1, brings=False))
    worker.step()
    assert front.hear() == MemoryMissing(5)
    front.say(item(5, 1))
    worker.step()
    front.hear_all(BatchStarted, Predicted, BatchStats)


def test_slots_in_use_return_to_zero_when_all_is_released(worker: Worker, front: Attached) -> None:
    front.say(item(1, 1), item(2, 2))
    worker.step()
    assert worker.slots_in_use == 2
    front.say(Release(b"\x01"), Release(b"\x02"))
    assert worker.slots_in_use == 0


def test_slots_in_use_return_to_zero_when_the_front_is_gone(worker: Worker, front: Attached) -> None:
    other = Attached(worker, number=2)
    front.say(item(1, 1))
    other.say(item(1, 1), item(2, 2))
    worker.step()
    assert worker.slots_in_use == 2
    other.leave()
    assert worker.slots_in_use == 1
    front.leave()
    assert worker.slots_in_use == 0


def test_items_of_a_front_that_is_gone_are_not_run(worker: Worker, front: Attached) -> None:
    other = Attached(worker, number=2)
    other.say(item(1, 1))
    other.leave()
    front.say(item(2, 2))
    worker.step()
    started, _, stats = front.hear_all(BatchStarted, Predicted, BatchStats)
    assert started == BatchStarted((2,))
    assert isinstance(stats, BatchStats)
    assert stats.batch_size == 1


def test_each_front_hears_of_its_own_items_and_of_every_step(worker: Worker, front: Attached) -> None:
    other = Attached(worker, number=2)
    front.say(item(1, 1, client="alice"))
    other.say(item(1, 2, client="bob"))
    worker.step()
    for each in (front, other):
        started, _, stats = each.hear_all(BatchStarted, Predicted, BatchStats)
        assert started == BatchStarted((1,))
        assert isinstance(stats, BatchStats)
        assert stats.batch_size == 2
    other.leave()


def test_a_cancelled_item_is_not_run(worker: Worker, front: Attached) -> None:
    front.say(item(1, 1), item(2, 2), Cancel(1))
    worker.step()
    assert front.hear() == BatchStarted((2,))


def test_an_item_that_waited_too_long_is_told_so_and_not_run(worker: Worker, front: Attached) -> None:
    late, good = item(1, 1), item(2, 2)
    front.say(msgspec.structs.replace(late, expires_at=99.9), msgspec.structs.replace(good, expires_at=100.1))
    worker.step()
    assert front.hear_all(Expired, BatchStarted) == [Expired(1), BatchStarted((2,))]


def test_crops_of_a_wrong_size_fail_before_they_reach_the_device(worker: Worker, front: Attached) -> None:
    front.say(TrackItem(1, "alice", b"\x01", b"tiny", (), 99.5, False))
    assert front.hear() == Failed(1, "search crop of 4 bytes, mixvit_tiny needs 196608")
    assert worker.slots_in_use == 0


def test_a_memory_that_could_not_be_made_is_not_held(
    worker: Worker, runner: Runner, front: Attached, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("no memory today")

    front.say(item(1, 1))
    with monkeypatch.context() as patch:
        patch.setattr(runner._network, "encode", broken)
        worker.step()
    _, failed, _ = front.hear_all(BatchStarted, Failed, BatchStats)
    assert failed == Failed(1, "RuntimeError: no memory today")
    assert worker.slots_in_use == 0


def test_a_ping_is_answered_with_the_slots_in_use(worker: Worker, front: Attached) -> None:
    front.say(item(1, 1), Ping(7))
    worker.step()
    *_, pong = front.hear_all(BatchStarted, Predicted, BatchStats, Pong)
    assert pong == Pong(7, 1)


def test_a_full_queue_is_not_read_into(worker: Worker, front: Attached, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.worker.worker.MAX_WAITING_ITEMS", 1)
    front.say(item(1, 1))
    reader = threading.Thread(target=front.say, args=(item(2, 2),))
    reader.start()
    reader.join(0.2)
    assert reader.is_alive(), "the second item must wait outside"
    worker.step()
    reader.join(PATIENCE_SECONDS)
    assert not reader.is_alive()
    assert front.hear() == BatchStarted((1,))


def test_a_front_that_fills_its_part_of_the_queue_leaves_the_others_theirs(
    worker: Worker, front: Attached, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.worker.worker.MAX_WAITING_ITEMS", 1)
    other = Attached(worker, number=2)
    front.say(item(1, 1))
    reader = threading.Thread(target=other.say, args=(item(1, 2, client="bob"),), daemon=True)
    reader.start()
    reader.join(PATIENCE_SECONDS)
    assert not reader.is_alive()
    worker.step()
    other.hear_all(BatchStarted, Predicted, BatchStats)
    other.leave()


def test_a_front_that_talks_nonsense_is_hung_up_on_and_the_others_stay(worker: Worker, front: Attached) -> None:
    ours, theirs = socket.socketpair()
    ours.sendall(b"\xff\xff\xff\xff")
    worker.serve(FrontLink(theirs, 2))
    mad = Front(ours)
    mad.hear_all(Hello)
    assert ours.recv(1) == b""
    front.say(item(1, 1))
    worker.step()
    front.hear_all(BatchStarted, Predicted, BatchStats)

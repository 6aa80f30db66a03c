"""The queue in front of the device: age, fairness, limits, and what goes back."""

from collections.abc import Callable, Collection

import pytest

from service.messages import TrackItem
from service.worker.scheduler import Batch, Scheduler, Waiting


def waiting(
    item_id: int, *, client: str = "alice", key: bytes = b"", age: float = 0.0, brings: bool = False, alone: bool = False,
    connection: int = 0, expires_at: float | None = None,
) -> Waiting:  # fmt: skip
    """An item that has waited `age` seconds; its memory key is its own unless given."""
    templates = (b"template",) if brings else ()
    return Waiting(
        connection, TrackItem(item_id, client, key or bytes([item_id]), b"search", templates, -age, alone, expires_at)
    )


def holding(*keys: bytes) -> Callable[[bytes], bool]:
    return lambda key: key in keys


def everything(key: bytes) -> bool:
    return True


def nothing(key: bytes) -> bool:
    return False


def queue(*items: Waiting, max_batch: int = 8, max_encodes: int = 4) -> Scheduler:
    scheduler = Scheduler(max_batch, max_encodes)
    for item in items:
        scheduler.add(item)
    return scheduler


def ids(items: Collection[Waiting]) -> list[int]:
    return [each.item.item_id for each in items]


def test_oldest_goes_first() -> None:
    scheduler = queue(waiting(1, age=1), waiting(2, age=3), waiting(3, age=2))
    assert ids(scheduler.next_batch(everything, now=0).items) == [2, 3, 1]


def test_full_batch_leaves_the_rest_queued() -> None:
    scheduler = queue(*(waiting(number, age=9 - number) for number in range(5)), max_batch=3)
    assert ids(scheduler.next_batch(everything, now=0).items) == [0, 1, 2]
    assert ids(scheduler.next_batch(everything, now=0).items) == [3, 4]
    assert len(scheduler) == 0


def test_nobody_gets_a_second_item_before_everybody_has_one() -> None:
    greedy = [waiting(number, client="greedy", age=9 - number) for number in range(6)]
    scheduler = queue(*greedy, waiting(7, client="modest", age=1), waiting(8, client="late", age=0), max_batch=4)
    assert ids(scheduler.next_batch(everything, now=0).items) == [0, 7, 8, 1]


def test_empty_queue_gives_an_empty_batch() -> None:
    assert queue().next_batch(everything, now=0) == Batch((), (), ())


def test_an_item_marked_alone_gets_a_batch_of_its_own_when_it_is_the_oldest() -> None:
    scheduler = queue(waiting(1, age=2), waiting(2, age=3, alone=True), waiting(3, age=1))
    assert ids(scheduler.next_batch(everything, now=0).items) == [2]
    assert ids(scheduler.next_batch(everything, now=0).items) == [1, 3]


def test_an_item_marked_alone_does_not_join_an_older_one() -> None:
    scheduler = queue(waiting(1, age=3), waiting(2, age=2, alone=True), waiting(3, age=1))
    assert ids(scheduler.next_batch(everything, now=0).items) == [1, 3]
    assert ids(scheduler.next_batch(everything, now=0).items) == [2]


def test_encodes_are_limited_and_do_not_hold_up_what_is_held() -> None:
    scheduler = queue(
        waiting(1, age=9, brings=True), waiting(2, age=8, brings=True), waiting(3, age=7, brings=True), waiting(4, age=1),
        max_encodes=2,
    )  # fmt: skip
    assert ids(scheduler.next_batch(holding(b"\x04"), now=0).items) == [1, 4, 2]
    assert ids(scheduler.next_batch(holding(b"\x04"), now=0).items) == [3]


def test_of_a_full_batch_one_in_eight_is_encoded_first() -> None:
    bringing = [waiting(number, age=99 - number, brings=True) for number in range(8)]
    held = [waiting(number, key=b"held", age=50 - number) for number in range(10, 30)]
    scheduler = queue(*bringing, *held, max_batch=16, max_encodes=4)
    assert ids(scheduler.next_batch(holding(b"held"), now=0).items) == [0, 1, *range(10, 24)]
    assert ids(scheduler.next_batch(holding(b"held"), now=0).items) == [2, 3, *range(24, 30), 4, 5]


def test_items_that_share_a_memory_need_one_encode() -> None:
    scheduler = queue(
        waiting(1, age=3, key=b"same", brings=True), waiting(2, age=2, key=b"same", brings=True), waiting(3, brings=True),
        max_encodes=1,
    )  # fmt: skip
    assert ids(scheduler.next_batch(nothing, now=0).items) == [1, 2]


def test_templates_of_a_memory_that_is_held_are_no_encode() -> None:
    scheduler = queue(waiting(1, age=2, brings=True), waiting(2, age=1, brings=True), max_encodes=1)
    assert ids(scheduler.next_batch(everything, now=0).items) == [1, 2]


def test_an_item_without_memory_and_templates_is_missing_at_once() -> None:
    scheduler = queue(waiting(1, age=2), waiting(2, age=1), max_batch=1)
    batch = scheduler.next_batch(holding(b"\x01"), now=0)
    assert ids(batch.items) == [1]
    assert ids(batch.missing) == [2]
    assert len(scheduler) == 0


def test_an_item_whose_memory_another_brings_waits_for_it() -> None:
    scheduler = queue(waiting(1, age=2, key=b"same"), waiting(2, age=1, key=b"same", brings=True))
    first = scheduler.next_batch(nothing, now=0)
    assert (ids(first.items), ids(first.missing)) == ([2], [])
    assert ids(scheduler.next_batch(holding(b"same"), now=0).items) == [1]


def test_a_cancelled_item_is_not_run() -> None:
    scheduler = queue(waiting(1, age=2), waiting(2, age=1))
    scheduler.cancel(0, 1)
    scheduler.cancel(0, 99)
    assert ids(scheduler.next_batch(everything, now=0).items) == [2]


def test_an_item_whose_time_is_over_goes_back_without_being_run() -> None:
    scheduler = queue(waiting(1, age=3, expires_at=4.9), waiting(2, age=2, expires_at=5.0), waiting(3, age=1))
    batch = scheduler.next_batch(nothing, now=5.0)
    assert (ids(batch.expired), ids(batch.missing)) == ([1], [2, 3])
    assert len(scheduler) == 0


def test_an_item_whose_time_is_over_brings_its_templates_to_nobody() -> None:
    scheduler = queue(waiting(1, key=b"same", brings=True, expires_at=1.0), waiting(2, key=b"same"))
    batch = scheduler.next_batch(nothing, now=2.0)
    assert (ids(batch.items), ids(batch.missing), ids(batch.expired)) == ([], [2], [1])


def test_a_closed_connection_takes_its_own_items_with_it() -> None:
    scheduler = queue(waiting(1, connection=1), waiting(1, connection=2), waiting(2, connection=1))
    scheduler.drop(1)
    assert [(each.connection, each.item.item_id) for each in scheduler.next_batch(everything, now=0).items] == [(2, 1)]


@pytest.mark.parametrize(("max_batch", "max_encodes"), [(0, 1), (1, 0)])
def test_limits_below_one_are_refused(max_batch: int, max_encodes: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Scheduler(max_batch, max_encodes)

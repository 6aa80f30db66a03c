"""Slots: shared by content, evicted by age, given back by everybody."""

import pytest

from service.worker.slots import SlotTable

FRONT, OTHER = 1, 2


def use(table: SlotTable, *keys: bytes, connection: int = FRONT) -> dict[bytes, int]:
    """One batch with these keys, from start to end."""
    lease = table.pin([(key, connection) for key in keys])
    table.unpin(lease)
    return lease.slots


def test_different_memories_get_different_slots() -> None:
    slots = use(SlotTable(3), b"a", b"b", b"c")
    assert sorted(slots.values()) == [0, 1, 2]


def test_a_memory_that_is_held_is_not_fresh() -> None:
    table = SlotTable(2)
    first = table.pin([(b"a", FRONT)])
    table.unpin(first)
    second = table.pin([(b"a", FRONT), (b"b", FRONT)])
    assert [first.fresh, second.fresh] == [frozenset([b"a"]), frozenset([b"b"])]
    assert second.slots[b"a"] == first.slots[b"a"]


def test_equal_memories_of_two_connections_share_a_slot_until_both_release() -> None:
    table = SlotTable(2)
    assert use(table, b"a") == use(table, b"a", connection=OTHER)
    table.release(b"a", FRONT)
    assert (table.in_use, table.holds(b"a")) == (1, True)
    table.release(b"a", OTHER)
    assert (table.in_use, table.holds(b"a")) == (0, False)


def test_a_connection_that_closes_gives_everything_back() -> None:
    table = SlotTable(3)
    use(table, b"a", b"b")
    use(table, b"b", b"c", connection=OTHER)
    table.leave(FRONT)
    assert [table.holds(key) for key in (b"a", b"b", b"c")] == [False, True, True]
    table.leave(OTHER)
    assert table.in_use == 0
    assert sorted(use(table, b"x", b"y", b"z").values()) == [0, 1, 2]


def test_the_memory_unused_for_longest_is_evicted() -> None:
    table = SlotTable(2)
    use(table, b"a", b"b")
    use(table, b"a")
    lease = table.pin([(b"c", FRONT)])
    assert lease.evictions == 1
    assert [table.holds(key) for key in (b"a", b"b", b"c")] == [True, False, True]


def test_a_batch_never_evicts_its_own_memories() -> None:
    table = SlotTable(2)
    use(table, b"old")
    use(table, b"new")
    lease = table.pin([(b"fresh", FRONT), (b"old", FRONT)])
    assert sorted(lease.slots.values()) == [0, 1]
    assert not table.holds(b"new")


def test_a_batch_of_more_memories_than_slots_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="slots"):
        SlotTable(2).pin([(b"a", FRONT), (b"b", FRONT), (b"c", FRONT)])


def test_what_is_released_during_its_batch_stays_until_the_batch_ends() -> None:
    table = SlotTable(1)
    lease = table.pin([(b"a", FRONT)])
    table.release(b"a", FRONT)
    assert table.in_use == 1
    table.unpin(lease)
    assert table.in_use == 0


def test_a_memory_that_could_not_be_made_is_forgotten() -> None:
    table = SlotTable(2)
    lease = table.pin([(b"good", FRONT), (b"bad", FRONT)])
    table.unpin(lease, unwritten=[b"bad"])
    assert [table.holds(key) for key in (b"good", b"bad")] == [True, False]
    assert table.in_use == 1


def test_releasing_what_is_not_held_is_no_error() -> None:
    table = SlotTable(1)
    use(table, b"a")
    table.release(b"unknown", FRONT)
    table.release(b"a", OTHER)
    assert table.holds(b"a")

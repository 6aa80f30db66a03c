"""What waits in front of a stream: in order, bounded, and under DROP_OLDEST the newest and whatever carries commands."""

import asyncio

import pytest
from fake_front import bench, start

from service.errors import Draining
from service.front.calls.inbox import DEPTH, Inbox
from service.front.frames import Frame

GIVEN = bench()


def plain(number: int) -> Frame:
    return GIVEN.frame(number)


def commanding(number: int) -> Frame:
    return GIVEN.frame(number, start())


async def all_of(inbox: Inbox) -> list[tuple[int, bool]]:
    """Numbers and whether they are superseded, to the end."""
    found = []
    while (waiting := await inbox.get()) is not None:
        found.append((waiting.frame.number, waiting.is_superseded))
    return found


async def finished(task: asyncio.Task[None]) -> bool:
    """Whether the task is done once everything else has had its turn."""
    for _ in range(20):
        await asyncio.sleep(0)
    return task.done()


async def test_blocking_takes_frames_up_to_its_depth_and_gives_them_in_order() -> None:
    inbox = Inbox(newest_wins=False)
    for number in range(DEPTH):
        await inbox.put(plain(number))
    late = asyncio.create_task(inbox.put(plain(DEPTH)))
    assert not await finished(late)
    first = await inbox.get()
    assert first is not None and first.frame.number == 0
    assert await finished(late)
    await inbox.close()
    assert await all_of(inbox) == [(1, False), (2, False)]


async def test_a_newer_frame_supersedes_those_that_wait_and_takes_their_pictures() -> None:
    inbox = Inbox(newest_wins=True)
    for number in range(5):
        await inbox.put(plain(number))
    first = await inbox.get()
    assert first is not None
    assert (first.frame.number, first.is_superseded, first.frame.payload) == (0, True, None)
    await inbox.close()
    assert await all_of(inbox) == [(1, True), (2, True), (3, True), (4, False)]


async def test_a_frame_with_commands_is_never_superseded() -> None:
    inbox = Inbox(newest_wins=True)
    for frame in (plain(0), commanding(1), plain(2), plain(3)):
        await inbox.put(frame)
    await inbox.close()
    assert await all_of(inbox) == [(0, True), (1, False), (2, True), (3, False)]


async def test_frames_with_commands_cannot_pile_up() -> None:
    inbox = Inbox(newest_wins=True)
    for number in range(DEPTH):
        await inbox.put(commanding(number))
    late = asyncio.create_task(inbox.put(plain(DEPTH)))
    assert not await finished(late)
    await inbox.get()
    assert await finished(late)


async def test_results_that_nobody_takes_stop_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.front.calls.inbox.MAX_UNANSWERED", 10)
    inbox = Inbox(newest_wins=True)
    for number in range(10):
        await inbox.put(plain(number))
    late = asyncio.create_task(inbox.put(plain(10)))
    assert not await finished(late)
    await inbox.get()
    assert await finished(late)


async def test_a_closed_inbox_gives_what_it_has_and_what_waits_to_come_in_before_its_error() -> None:
    inbox = Inbox(newest_wins=False)
    for number in range(DEPTH):
        await inbox.put(plain(number))
    late = asyncio.create_task(inbox.put(plain(DEPTH)))
    await asyncio.sleep(0)
    await inbox.close(Draining("going"))
    numbers = []
    for _ in range(DEPTH + 1):
        waiting = await inbox.get()
        assert waiting is not None
        numbers.append(waiting.frame.number)
    assert numbers == [0, 1, 2]
    with pytest.raises(Draining):
        await inbox.get()
    await late


async def test_waiting_for_a_frame_ends_when_the_inbox_is_closed() -> None:
    inbox = Inbox(newest_wins=False)
    waiting = asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    await inbox.close()
    assert await waiting is None

"""Threads for work on pixels: what they give, and what becomes of work that nobody waits for."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from service.front.tracking.threads import Threads

PATIENCE_SECONDS = 30.0


@pytest.fixture
def threads() -> Iterator[Threads]:
    one = Threads(1, "test")
    yield one
    one.close()


async def test_a_step_is_done_in_another_thread(threads: Threads) -> None:
    assert await threads.start(threading.get_ident) != threading.get_ident()


async def test_what_a_step_raises_is_raised_where_it_is_awaited_and_the_thread_goes_on(threads: Threads) -> None:
    with pytest.raises(ZeroDivisionError):
        await threads.start(lambda: 1 // 0)
    assert await threads.start(lambda: 1) == 1


async def test_a_step_that_nobody_waits_for_is_skipped_when_its_turn_comes(threads: Threads) -> None:
    hold, done, skipped = threading.Event(), list[str](), threading.Event()
    first = threads.start(lambda: hold.wait(PATIENCE_SECONDS))
    threads.start(lambda: done.append("second"), skipped.set).cancel()
    third = threads.start(lambda: done.append("third"))
    hold.set()
    await asyncio.gather(first, third)
    assert (done, skipped.is_set()) == (["third"], True)


async def test_a_step_that_is_left_while_it_is_done_disturbs_nobody(threads: Threads) -> None:
    began, hold = threading.Event(), threading.Event()

    def step() -> None:
        began.set()
        hold.wait(PATIENCE_SECONDS)

    left = threads.start(step)
    assert began.wait(PATIENCE_SECONDS)
    left.cancel()
    hold.set()
    assert await threads.start(lambda: 1) == 1


async def test_steps_that_wait_at_the_end_are_skipped() -> None:
    one, hold, skipped = Threads(1, "test"), threading.Event(), list[str]()
    began = threading.Event()

    def step() -> str:
        began.set()
        hold.wait(PATIENCE_SECONDS)
        return "done"

    first = one.start(step)
    assert began.wait(PATIENCE_SECONDS)
    second = one.start(lambda: "done", lambda: skipped.append("second"))
    threading.Timer(0.05, hold.set).start()
    one.close()
    assert await first == "done"
    assert (second.cancelled(), skipped) == (True, ["second"])

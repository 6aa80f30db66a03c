"""Threads for work on pixels, each step awaited on the event loop.

Not `concurrent.futures`: its two futures a step, each with locks of its own and callbacks that copy one into the other, cost the
front more than the way into a thread and back.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class _Job(NamedTuple):
    step: Callable[[], Any]
    done: "asyncio.Future[Any]"
    on_skipped: Callable[[], None]


def _nothing() -> None:
    """What there is to do about most steps that are skipped."""


class Threads:
    """As many threads, which take the steps in their order."""

    def __init__(self, count: int, name: str) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=f"{name} {number}", daemon=True) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def start(self, step: Callable[[], T], on_skipped: Callable[[], None] = _nothing) -> "asyncio.Future[T]":
        """What `step` gives or raises, done in one of the threads. Where nobody waits for it any more when its turn comes, it is
        not done, and `on_skipped` is called instead, from any thread.
        """
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(step, done, on_skipped))
        return done

    def close(self) -> None:
        """Wait for the steps that are being done; those that wait are skipped. From the event loop."""
        with contextlib.suppress(Empty):
            while (job := self._jobs.get_nowait()) is not None:
                job.done.cancel()
                job.on_skipped()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            _do(job)
            # What it gave must not live until the next one comes.
            del job


def _do(job: _Job) -> None:
    if job.done.cancelled():
        job.on_skipped()
        return
    outcome, error = None, None
    try:
        outcome = job.step()
    except BaseException as raised:  # noqa: BLE001 - whatever it is, it belongs to who waits
        error = raised
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
        job.done.get_loop().call_soon_threadsafe(_settle, job.done, outcome, error)


def _settle(done: "asyncio.Future[Any]", outcome: Any, error: BaseException | None) -> None:
    if done.cancelled():
        return
    if error is None:
        done.set_result(outcome)
    else:
        done.set_exception(error)

"""Whether a worker lives: it says so on its standard output all the time, and its parent kills one that falls silent.

A process that is dead ends its pipe. One that is stopped, or whose device does not come back from a step, keeps its sockets open
and would be waited for; its frames go on with the next worker only once it is killed.
"""

import asyncio
import contextlib
import logging
import os
import threading
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Iterator

_BEAT_SECONDS = 0.25
_BEAT = b"."
# Importing torch on a busy machine comes before the first beat.
_FIRST_BEAT_SECONDS = 120.0
# A parent that was stopped itself finds the beats of meanwhile only after its own clock has run out.
_SECOND_LOOK_SECONDS = 1.0

_log = logging.getLogger(__name__)


class Pulse:
    """The worker's side. It beats by itself, unless a step takes longer than anybody waits for its results."""

    def __init__(self, longest_step_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._longest_step = longest_step_seconds
        self._clock = clock
        self._step_began_at: float | None = None

    def start(self, output: int) -> None:
        """Beat on the file descriptor `output`, from a thread of its own, for as long as the process lives."""
        threading.Thread(target=self._beat, args=(output,), name="pulse", daemon=True).start()

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """The device has something to do for the length of the body."""
        self._step_began_at = self._clock()
        try:
            yield
        finally:
            self._step_began_at = None

    def is_stuck(self) -> bool:
        """Whether the device has not come back from its step in time."""
        began_at = self._step_began_at
        return began_at is not None and self._clock() - began_at > self._longest_step

    def _beat(self, output: int) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody listens any more: the parent is gone, and with it soon this process
            while True:
                if not self.is_stuck():
                    os.write(output, _BEAT)
                time.sleep(_BEAT_SECONDS)


async def wait_for_end(worker: Process, silence_seconds: float) -> int:
    """The parent's side: the status that the worker ends with. One without a beat for `silence_seconds` is killed.

    Its standard output must be a pipe.
    """
    assert worker.stdout is not None
    patience = max(_FIRST_BEAT_SECONDS, silence_seconds)
    try:
        while await _hear(worker.stdout, patience):
            patience = silence_seconds
    except TimeoutError:
        _log.error("worker %d gave no sign of life for %g s, killing it", worker.pid, patience)
        worker.kill()
    return await worker.wait()


async def _hear(output: asyncio.StreamReader, patience: float) -> bytes:
    """The next beats, empty at the end. Raises TimeoutError."""
    for seconds in (patience, _SECOND_LOOK_SECONDS):
        try:
            async with asyncio.timeout(seconds):
                return await output.read(1024)
        except TimeoutError:
            continue
    raise TimeoutError

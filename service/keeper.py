"""The parent's side of one child process: started, ended, and how long it stays dead."""

import asyncio
import contextlib
import logging
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence

from service.config import ServeSettings

_FIRST_DELAY_SECONDS = 0.1
_LONGEST_DELAY_SECONDS = 5.0
_HEALTHY_SECONDS = 60.0

_log = logging.getLogger(__name__)


class Backoff:
    """How long a dead child stays dead: short at first, longer while it keeps dying young, for ever after too many."""

    def __init__(self, max_restarts: int) -> None:
        """`max_restarts`: how often in a row a child may die young."""
        self._max_restarts = max_restarts
        self._restarts = 0

    def next_delay(self, lifetime_seconds: float) -> float | None:
        """Seconds until the next start, after a life of this length; None where there is to be none."""
        if lifetime_seconds >= _HEALTHY_SECONDS:
            self._restarts = 0
        self._restarts += 1
        if self._restarts > self._max_restarts:
            return None
        return min(_FIRST_DELAY_SECONDS * 2.0 ** min(self._restarts - 1, 16), _LONGEST_DELAY_SECONDS)


class Child:
    """One place among the children: a process, and after its death the next one."""

    def __init__(
        self, name: str, arguments: Sequence[str], settings: ServeSettings, environment: Mapping[str, str] | None = None
    ) -> None:
        """`arguments` are what Python is called with, `environment` is added to ours."""
        self.name = name
        self._command = (sys.executable, *arguments)
        self._settings = settings
        self._environment = environment or {}
        self._process: Process | None = None

    @property
    def process(self) -> Process:
        """The present process, or the last one; its standard output is a pipe. It must have been started."""
        assert self._process is not None
        return self._process

    async def start(self) -> None:
        """A process in a session of its own, so that Ctrl-C reaches it through us alone, with the settings on its standard input."""
        # Waiting OpenMP threads that spin stall each other by 7 ms an operation on a busy machine.
        environment = {"OMP_WAIT_POLICY": "passive", **os.environ, **self._environment}
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, env=environment, start_new_session=True
        )
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it is dead already; whoever waits for it will see
            self._process.stdin.write(self._settings.to_json() + b"\n")
            await self._process.stdin.drain()

    def kill(self) -> None:
        """End it at once, if it still lives."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def end(self, grace_seconds: float) -> None:
        """Ask it to end, and make it after the grace."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            async with asyncio.timeout(grace_seconds):
                await self._process.wait()
        except TimeoutError:
            _log.warning("%s did not end within %g s, killing it", self.name, grace_seconds)
            self._process.kill()
            await self._process.wait()

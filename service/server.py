"""The parent of `mixformer serve`: starts the worker and the front, watches them, ends them in order. It holds nothing else."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from service import logs
from service.child import EXIT_BAD_SETTINGS, worker_module
from service.config import ServeSettings, SettingsError
from service.pulse import wait_for_end

_WORKER_GRACE_SECONDS = 5.0
# The front drains for `grace_seconds` itself; this much later it is taken for stuck.
_FRONT_MARGIN_SECONDS = 5.0
_FIRST_DELAY_SECONDS = 0.1
_LONGEST_DELAY_SECONDS = 5.0
_HEALTHY_SECONDS = 60.0
# sun_path of unix(7), with its closing zero.
_LONGEST_SOCKET_PATH = 107

_log = logging.getLogger(__name__)


def serve(settings: ServeSettings) -> int:
    """Serve until a signal comes or the front ends. Gives the exit status: 0 after a signal, else what the front ended with.

    Raises SettingsError where the worker's socket cannot stand in `run_dir`.
    """
    logs.set_up(settings.log_level, settings.log_format)
    _say_who_may_call(settings)
    try:
        folder = tempfile.TemporaryDirectory(prefix="mixformer-", dir=settings.run_dir or None)
    except OSError as error:
        raise SettingsError(f"run_dir={settings.run_dir!r} cannot be used: {error}") from error
    with folder as name:
        path = str(Path(name) / "worker.sock")
        if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
            raise SettingsError(f"run_dir: {path} is too long for a unix socket, over {_LONGEST_SOCKET_PATH} bytes")
        return asyncio.run(Server(replace(settings, worker_socket=path)).run())


def _say_who_may_call(settings: ServeSettings) -> None:
    lacking = " and ".join(settings.lacks)
    if settings.is_open and lacking:
        _log.warning("insecure: %s lets other machines in without %s", settings.listen, lacking)
    elif lacking:
        _log.info("%s lets only this machine in; for others it lacks %s", settings.listen, lacking)


class Backoff:
    """How long a dead worker stays dead: short at first, longer while it keeps dying young, for ever after too many."""

    def __init__(self, max_restarts: int) -> None:
        """`max_restarts`: how often in a row a worker may die young."""
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


class Server:
    """The two children. A dead worker is started again, a dead front ends the server with its status."""

    def __init__(
        self,
        settings: ServeSettings,
        worker: Sequence[str] = (),
        front: Sequence[str] = ("-m", "service.front.frontend"),
    ) -> None:
        """`worker` and `front` are what Python is called with; the worker is by default the one of the device."""
        self._settings = settings
        self._worker_arguments = worker or ("-m", worker_module(settings.device))
        self._front_arguments = front
        self._worker: Process | None = None
        self._front: Process | None = None
        self._signals: list[signal.Signals] = []
        self._signalled = asyncio.Event()

    async def run(self) -> int:
        """From the first start to the last end; the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        tasks = [asyncio.create_task(each) for each in (self._keep_worker(), self._watch_front(), self._wait_for_signal())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            status = 0 if self._signals else done.pop().result()
        finally:
            await self._shut_down(tasks)
        return 128 + self._signals[1] if len(self._signals) > 1 else status

    async def _shut_down(self, tasks: Sequence[asyncio.Task[int]]) -> None:
        """First the front, which drains and needs a worker for that, also a restarted one; then the worker."""
        await _end(self._front, "front", self._settings.grace_seconds + _FRONT_MARGIN_SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _end(self._worker, "worker", _WORKER_GRACE_SECONDS)

    async def _wait_for_signal(self) -> int:
        await self._signalled.wait()
        return 0

    def _on_signal(self, number: signal.Signals) -> None:
        self._signals.append(number)
        self._signalled.set()
        if len(self._signals) == 1:
            _log.info("%s: draining, at most %g s", number.name, self._settings.grace_seconds)
            return
        _log.warning("%s again: ending at once", number.name)
        for child in (self._front, self._worker):
            if child is not None and child.returncode is None:
                child.kill()

    async def _keep_worker(self) -> int:
        """Start workers for as long as that can help. Gives the status of a server whose worker cannot run at all."""
        backoff = Backoff(self._settings.max_worker_restarts)
        while True:
            started_at = time.monotonic()
            self._worker = await _start(self._worker_arguments, self._settings, stdout=PIPE)
            _log.info("worker %d started", self._worker.pid)
            status = await wait_for_end(self._worker, self._settings.worker_silence_seconds)
            if status == EXIT_BAD_SETTINGS:
                _log.error("the worker cannot run with these settings")
                return 1
            delay = backoff.next_delay(time.monotonic() - started_at)
            if delay is None:
                _log.error("worker %d ended with status %d, one too many: giving up", self._worker.pid, status)
                return 1
            _log.error("worker %d ended with status %d, the next starts in %.1f s", self._worker.pid, status, delay)
            await asyncio.sleep(delay)

    async def _watch_front(self) -> int:
        """Start the front and say when it serves. Gives the status it ended with, signals as a shell counts them."""
        self._front = await _start(self._front_arguments, self._settings, stdout=PIPE)
        assert self._front.stdout is not None
        async for line in self._front.stdout:
            word, _, address = line.decode(errors="replace").strip().partition(" ")
            if word == "READY":
                _log.info("serving on %s", address)
        status = await self._front.wait()
        if not self._signals:
            _log.error("the front ended with status %d", status)
        return 128 - status if status < 0 else status


async def _start(arguments: Sequence[str], settings: ServeSettings, stdout: int) -> Process:
    """A child in a session of its own, so that Ctrl-C reaches it through us alone, with the settings on its standard input."""
    # Waiting OpenMP threads that spin stall each other by 7 ms an operation on a busy machine.
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ}
    command = (sys.executable, *arguments)
    child = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=stdout, env=environment, start_new_session=True)
    assert child.stdin is not None
    with contextlib.suppress(OSError):  # it is dead already; whoever waits for it will see
        child.stdin.write(settings.to_json() + b"\n")
        await child.stdin.drain()
    return child


async def _end(child: Process | None, name: str, grace_seconds: float) -> None:
    """Ask a child to end, and make it after the grace."""
    if child is None or child.returncode is not None:
        return
    child.terminate()
    try:
        async with asyncio.timeout(grace_seconds):
            await child.wait()
    except TimeoutError:
        _log.warning("the %s did not end within %g s, killing it", name, grace_seconds)
        child.kill()
        await child.wait()

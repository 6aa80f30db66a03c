"""The parent of `mixformer serve`: starts workers and fronts, watches them, ends them in order. It holds nothing else."""

import asyncio
import logging
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from service import logs
from service.child import EXIT_BAD_SETTINGS, worker_module
from service.config import ServeSettings, SettingsError, parse_address
from service.keeper import Backoff, Child
from service.pulse import wait_for_end
from service.totals import Totals

_WORKER_GRACE_SECONDS = 5.0
# The front drains for `grace_seconds` itself; this much later it is taken for stuck.
_FRONT_MARGIN_SECONDS = 5.0
# sun_path of unix(7), with its closing zero.
_LONGEST_SOCKET_PATH = 107

_log = logging.getLogger(__name__)


def serve(settings: ServeSettings) -> int:
    """Serve until a signal comes or the service cannot go on. Gives the exit status: 0 after a signal, else what a front ended with.

    Raises SettingsError where the workers' sockets cannot stand in `run_dir`, OSError where the port of the metrics is taken.
    """
    logs.set_up(settings.log_level, settings.log_format)
    _say_who_may_call(settings)
    try:
        folder = tempfile.TemporaryDirectory(prefix="mixformer-", dir=settings.run_dir or None)
    except OSError as error:
        raise SettingsError(f"run_dir={settings.run_dir!r} cannot be used: {error}") from error
    with folder as name:
        settings = replace(settings, worker_socket=str(Path(name) / "worker.sock"))
        path = settings.socket_of(len(settings.worker_devices) - 1)
        if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
            raise SettingsError(f"run_dir: {path} is too long for a unix socket, over {_LONGEST_SOCKET_PATH} bytes")
        totals = _export(Path(name) / "metrics", settings) if settings.fronts > 1 else None
        return asyncio.run(Server(settings, totals=totals).run())


def _say_who_may_call(settings: ServeSettings) -> None:
    lacking = " and ".join(settings.lacks)
    if settings.is_open and lacking:
        _log.warning("insecure: %s lets other machines in without %s", settings.listen, lacking)
    elif lacking:
        _log.info("%s lets only this machine in; for others it lacks %s", settings.listen, lacking)


def _export(folder: Path, settings: ServeSettings) -> Totals:
    """One endpoint for all fronts. Raises OSError where the port is taken."""
    totals = Totals(folder)
    try:
        port = totals.serve(parse_address(settings.metrics))
    except OSError as error:
        raise OSError(f"metrics={settings.metrics}: the port cannot be opened: {error}") from error
    _log.info("metrics on port %d, of all fronts", port)
    return totals


class Server:
    """All children. A dead worker is started again, and so is a dead front that has served beside others; any other front
    that ends, ends the server with its status.
    """

    def __init__(
        self,
        settings: ServeSettings,
        worker: Sequence[str] = (),
        front: Sequence[str] = ("-m", "service.front.frontend"),
        totals: Totals | None = None,
    ) -> None:
        """`worker` and `front` are what Python is called with; a worker is by default the one of its device. `totals` adds up the
        metrics of several fronts."""
        self._settings = settings
        self._totals = totals
        self._workers = [
            Child(f"worker {number}", worker or ("-m", worker_module(device)), replace(settings, device=device, number=number))
            for number, device in enumerate(settings.worker_devices)
        ]
        environment = {} if totals is None else totals.environment
        self._fronts = [
            Child(f"front {number}", front, replace(settings, number=number), environment) for number in range(settings.fronts)
        ]
        self._signals: list[signal.Signals] = []
        self._signalled = asyncio.Event()

    async def run(self) -> int:
        """From the first start to the last end; the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        keepers = [*map(self._keep_worker, self._workers), *map(self._keep_front, self._fronts), self._wait_for_signal()]
        tasks = [asyncio.create_task(each) for each in keepers]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            status = 0 if self._signals else done.pop().result()
        finally:
            await self._shut_down(tasks)
        return 128 + self._signals[1] if len(self._signals) > 1 else status

    async def _shut_down(self, tasks: Sequence[asyncio.Task[int]]) -> None:
        """First the fronts, which drain and need workers for that, also restarted ones; then the workers."""
        self._signalled.set()  # no front is started again from now on
        await asyncio.gather(*(front.end(self._settings.grace_seconds + _FRONT_MARGIN_SECONDS) for front in self._fronts))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(worker.end(_WORKER_GRACE_SECONDS) for worker in self._workers))

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
        for child in (*self._fronts, *self._workers):
            child.kill()

    async def _keep_worker(self, worker: Child) -> int:
        """Start workers for as long as that can help. Gives the status of a server whose worker cannot run at all."""
        backoff = Backoff(self._settings.max_worker_restarts)
        while True:
            started_at = time.monotonic()
            await worker.start()
            _log.info("%s started as process %d", worker.name, worker.process.pid)
            status = await wait_for_end(worker.process, self._settings.worker_silence_seconds)
            if status == EXIT_BAD_SETTINGS:
                _log.error("%s cannot run with these settings", worker.name)
                return 1
            if not await _pause(worker, status, backoff.next_delay(time.monotonic() - started_at)):
                return 1

    async def _keep_front(self, front: Child) -> int:
        """Start a front, and start it again where it has served and others serve meanwhile. Gives the status it ended with,
        signals as a shell counts them.
        """
        backoff = Backoff(self._settings.max_worker_restarts)
        status = 0
        while not self._signalled.is_set():
            started_at = time.monotonic()
            has_served, status = await self._run_front(front)
            status = 128 - status if status < 0 else status
            if self._signalled.is_set():
                return status
            if not has_served or len(self._fronts) == 1:
                _log.error("%s ended with status %d", front.name, status)
                return status
            if not await _pause(front, status, backoff.next_delay(time.monotonic() - started_at)):
                return status
        return status

    async def _run_front(self, front: Child) -> tuple[bool, int]:
        """One front, from its start to its end; whether it has served, and its status."""
        await front.start()
        _log.info("%s started as process %d", front.name, front.process.pid)
        assert front.process.stdout is not None
        has_served = False
        async for line in front.process.stdout:
            word, _, address = line.decode(errors="replace").strip().partition(" ")
            if word == "READY":
                has_served = True
                _log.info("serving on %s", address)
        status = await front.process.wait()
        if self._totals is not None:
            self._totals.forget(front.process.pid)
        return has_served, status


async def _pause(child: Child, status: int, seconds: float | None) -> bool:
    """Say how a child ended and let its place be empty for a while; whether it is to be filled again."""
    if seconds is None:
        _log.error("%s ended with status %d, one too many: giving up", child.name, status)
        return False
    _log.error("%s ended with status %d, the next starts in %.1f s", child.name, status, seconds)
    await asyncio.sleep(seconds)
    return True

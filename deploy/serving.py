"""`mixformer serve` as a process of its own, for the scripts that try it as its users do."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from service.commands.command import CommandError
from service.commands.healthcheck import check

START_SECONDS = 180.0
STOP_SECONDS = 30.0


class Serving(NamedTuple):
    """A service that is ready. `server` and `metrics` are HOST:PORT."""

    server: str
    metrics: str
    parent: "subprocess.Popen[bytes]"

    def worker(self) -> psutil.Process:
        """Its present worker."""
        children = psutil.Process(self.parent.pid).children()
        return next(each for each in children if any(word.startswith("service.worker.") for word in each.cmdline()))


@contextmanager
def serving(log: Path, *flags: str) -> Iterator[Serving]:
    """The service on free ports of this machine's loopback, unless `flags` name others; ready, and ended afterwards."""
    server, metrics = (f"127.0.0.1:{port}" for port in free_ports(2))
    with started(log, "--listen", server, "--metrics", metrics, *flags) as parent:
        wait_until_serving(server, parent, log)
        yield Serving(server, metrics, parent)


@contextmanager
def started(log: Path, *flags: str) -> Iterator["subprocess.Popen[bytes]"]:
    """The service as it starts, in a process group of its own; asked to end afterwards, and killed where it does not."""
    command = [sys.executable, "-m", "service", "serve", *flags]
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True) as parent:
        try:
            yield parent
        finally:
            parent.send_signal(signal.SIGTERM)
            try:
                parent.wait(STOP_SECONDS)
            finally:
                parent.kill()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_until_serving(server: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Until the health service says SERVING. Raises SystemExit where the process ends first or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if check(server, "", timeout_seconds=5.0) == "SERVING":
                return
        except CommandError:
            pass  # not listening yet
        time.sleep(0.2)
    raise SystemExit(f"the service did not start; its log says:\n{log.read_text()}")

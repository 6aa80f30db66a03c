"""The real processes: a front and a worker as the parent starts them, and the parent as a user starts it."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from service.config import ServeSettings

Child = subprocess.Popen[bytes]

PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class Running:
    """A service whose front is ready. `metrics` is the URL of its figures."""

    address: str
    metrics: str
    front: Child
    worker: Child


def free_port() -> int:
    """A port that nobody has at the moment."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def child(module: str, settings: ServeSettings) -> Iterator[Child]:
    """One process of the service; its standard output and error can be read. Ended with its standard input, or killed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )  # fmt: skip
    assert process.stdin is not None
    try:
        process.stdin.write(settings.to_json() + b"\n")
        process.stdin.flush()
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def service(weights: Path, folder: Path, settings: ServeSettings) -> Iterator[Running]:
    """A worker on one core of the CPU and a front that says it is ready, with these settings and ports of their own."""
    port = free_port()
    whole = replace(
        settings,
        listen="127.0.0.1:0",
        metrics=f"127.0.0.1:{port}",
        weights=str(weights),
        device="cpu",
        threads=1,
        worker_socket=str(folder / "worker.sock"),
        log_level="warning",
    )
    with child("service.worker.runner", whole) as worker, child("service.front.frontend", whole) as front:
        assert front.stdout is not None
        word, _, address = front.stdout.readline().decode().strip().partition(" ")
        assert word == "READY", front.stderr.read() if front.stderr else ""
        yield Running(address, f"http://127.0.0.1:{port}/metrics", front, worker)


@dataclass(frozen=True)
class Served:
    """`mixformer serve`, running. `log` is what its processes have written."""

    parent: Child
    address: str
    metrics: str
    log: Path

    def worker(self, number: int = 0) -> psutil.Process:
        """The present worker with this number."""
        return self._child(f"worker {number}")

    def front(self, number: int = 0) -> psutil.Process:
        """The present front with this number."""
        return self._child(f"front {number}")

    def scrape(self) -> str:
        """The metrics as Prometheus gets them."""
        with urllib.request.urlopen(self.metrics, timeout=PATIENCE_SECONDS) as answer:
            text: str = answer.read().decode()
        return text

    def wait_for(self, pattern: str) -> str:
        """The first group of what the processes write, once they have written it."""
        return _read(self.log, self.parent, pattern)

    def _child(self, name: str) -> psutil.Process:
        return psutil.Process(int(re.findall(rf"{name} started as process (\d+)", self.log.read_text())[-1]))


@contextmanager
def served(folder: Path, *flags: str, program: Sequence[str] = ("-m", "service", "serve")) -> Iterator[Served]:
    """The service as a user starts it, with ports of its own unless the flags say otherwise. Killed at the end, where it still runs.

    `program` is what Python is called with, where it is to find this folder's modules too.
    """
    ports = ("--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0")
    command = [sys.executable, *program, *ports, "--threads", "1", *flags]
    paths = [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    log = folder / "log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=errors, env=environment) as parent,
    ):
        try:
            address = _read(log, parent, r"serving on (\S+)")
            port = _read(log, parent, r"metrics on port (\d+)")
            yield Served(parent, address, f"http://127.0.0.1:{port}/metrics", log)
        finally:
            parent.kill()


def _read(log: Path, parent: Child, pattern: str) -> str:
    """What the processes write, once they have written it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and parent.poll() is None:
        if found := re.search(pattern, log.read_text()):
            return found[1]
        time.sleep(0.02)
    raise AssertionError(f"no {pattern!r} in: {log.read_text()}")

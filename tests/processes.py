"""A real front and a real worker, as the parent starts them."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from service.config import ServeSettings

Child = subprocess.Popen[bytes]


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
    """A worker on one core and a front that says it is ready, with these settings and ports of their own."""
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
    with child("service.worker.worker", whole) as worker, child("service.front.frontend", whole) as front:
        assert front.stdout is not None
        word, _, address = front.stdout.readline().decode().strip().partition(" ")
        assert word == "READY", front.stderr.read() if front.stderr else ""
        yield Running(address, f"http://127.0.0.1:{port}/metrics", front, worker)

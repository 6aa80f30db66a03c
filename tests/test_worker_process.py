"""The worker's life as a process: how it starts, what it ignores, and how it ends."""

import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tiny
from attached import PATIENCE_SECONDS, Front, item

from service.child import EXIT_BAD_SETTINGS
from service.config import ServeSettings
from service.messages import (
    BatchStarted,
    BatchStats,
    Hello,
    Predicted,
)


@contextmanager
def process(settings: ServeSettings) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process, as the parent starts it."""
    command = [sys.executable, "-m", "service.worker.runner"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        worker.stdin.write(settings.to_json() + b"\n")
        worker.stdin.flush()
        try:
            yield worker
        finally:
            worker.kill()


def wait_until_it_listens(worker: subprocess.Popen[bytes], path: Path) -> Front:
    """A front connected to the process, once it has loaded."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and worker.poll() is None:
        try:
            front = Front(path)
        except (FileNotFoundError, ConnectionRefusedError):
            time.sleep(0.05)
            continue
        front.hear_all(Hello)
        return front
    raise AssertionError(f"no worker on {path}, its status is {worker.poll()}")


def test_a_worker_process_serves_ignores_ctrl_c_and_ends_on_sigterm(tiny_weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "worker.sock"
    path.write_text("left behind by a worker that died")
    with process(tiny.settings(tiny_weights, worker_socket=str(path))) as worker:
        front = wait_until_it_listens(worker, path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        worker.send_signal(signal.SIGINT)
        front.say(item(1, 1))
        front.hear_all(BatchStarted, Predicted, BatchStats)
        worker.terminate()
        assert worker.wait(PATIENCE_SECONDS) == 0


def test_a_worker_process_ends_when_its_parent_is_gone(tiny_weights: Path, tmp_path: Path) -> None:
    with process(tiny.settings(tiny_weights, worker_socket=str(tmp_path / "worker.sock"))) as worker:
        wait_until_it_listens(worker, tmp_path / "worker.sock")
        assert worker.stdin is not None
        worker.stdin.close()
        assert worker.wait(PATIENCE_SECONDS) == 0


def test_a_worker_that_cannot_load_its_weights_says_which_and_why(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.safetensors"
    wrong.write_bytes(b"these are no weights")
    with process(tiny.settings(wrong, worker_socket=str(tmp_path / "worker.sock"))) as worker:
        assert worker.stderr is not None
        words = worker.stderr.read().decode()
        assert worker.wait(PATIENCE_SECONDS) == EXIT_BAD_SETTINGS
    assert f"worker cannot start: {wrong}" in words
    assert "Traceback" not in words

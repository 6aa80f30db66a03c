"""The front's process without a service behind it: how it starts, what stops it, and how it ends."""

import asyncio
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from processes import child
from scripted_worker import HELLO, ScriptedWorker

from service.config import ServeSettings
from service.messages import Ping, Pong

ENDS_SECONDS = 30


def alone(folder: Path, listen: str = "127.0.0.1:0", metrics: str = "127.0.0.1:0") -> ServeSettings:
    """Settings of a front whose worker never comes."""
    return ServeSettings(listen=listen, metrics=metrics, worker_socket=str(folder / "none.sock"))


async def test_a_front_is_announced_once_health_says_serving(tmp_path: Path) -> None:
    worker = ScriptedWorker(tmp_path / "none.sock")
    await worker.start()
    with child("service.front.frontend", alone(tmp_path)) as front:
        assert front.stdout is not None
        announced = asyncio.create_task(asyncio.to_thread(front.stdout.readline))
        ping = await worker.hear(Ping)
        assert not announced.done()
        worker.say(Pong(ping.ping_id, 0))
        address = (await announced).decode().split()[1]
        async with aio.insecure_channel(address) as connected:
            health: Any = HealthStub(connected)
            answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    await worker.stop()


@pytest.mark.parametrize("name", ["listen", "metrics"])
def test_a_taken_port_ends_the_start_with_its_name(name: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as owner:
        taken = f"127.0.0.1:{owner.getsockname()[1]}"
        with child("service.front.frontend", alone(tmp_path, **{name: taken})) as front:
            assert front.wait(ENDS_SECONDS) == 1
            assert front.stderr is not None
            errors = front.stderr.read().decode()
    assert f"{name}={taken}: the port cannot be opened" in errors
    assert "Traceback" not in errors


def test_a_front_without_a_worker_can_be_ended(tmp_path: Path) -> None:
    with child("service.front.frontend", alone(tmp_path)) as front:
        assert front.stderr is not None
        front.stderr.readline()  # the metrics are up
        front.send_signal(signal.SIGTERM)
        assert front.wait(ENDS_SECONDS) == 0


async def test_a_front_ends_when_its_worker_comes_back_with_another_network(tmp_path: Path) -> None:
    worker = ScriptedWorker(tmp_path / "none.sock")
    await worker.start()
    with child("service.front.frontend", alone(tmp_path)) as front:
        ping = await worker.hear(Ping)
        worker.say(Pong(ping.ping_id, 0))
        assert front.stdout is not None and front.stderr is not None
        assert (await asyncio.to_thread(front.stdout.readline)).startswith(b"READY")
        worker.restart_with(msgspec.structs.replace(HELLO, weights_sha256="other"))
        assert await asyncio.to_thread(front.wait, ENDS_SECONDS) == 1
        last = front.stderr.read().decode().splitlines()[-1]
    assert last == "a worker runs something else than the first: weights_sha256 '' is now 'other'"
    await worker.stop()


def test_a_front_ends_with_its_parent(tmp_path: Path) -> None:
    with child("service.front.frontend", alone(tmp_path)) as front:
        front.communicate(timeout=ENDS_SECONDS)
        assert front.returncode == 0


def test_a_front_without_settings_says_so() -> None:
    command = [sys.executable, "-m", "service.front.frontend"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=ENDS_SECONDS, check=False)
    assert (done.returncode, b"no settings" in done.stderr, b"Traceback" in done.stderr) == (1, True, False)


def test_the_front_stays_without_the_network_library() -> None:
    code = "import sys, service.front.frontend; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=ENDS_SECONDS, check=False).returncode == 0

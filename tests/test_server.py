"""The parent: what it starts, restarts and ends, with children made for the test."""

import asyncio
import os
import select
import signal
import sys
from pathlib import Path

import pytest
from children import CHILD, FRONT, PATIENCE_SECONDS, WORKER, Notes, status_of, until

from service.config import ServeSettings, SettingsError
from service.keeper import Backoff
from service.server import Server, serve

STUBBORN_FRONT = FRONT.replace('end("front")', 'note("front stays")')
# Of two, one that dies after it has served, and one that takes longer to end than the other's next start would wait.
MORTAL_FRONT = (
    CHILD
    + """
def end_slowly(*_):
    time.sleep(2)
    end("front")
signal.signal(signal.SIGTERM, end_slowly)
print("READY 127.0.0.1:1", flush=True)
if settings.number == 1:
    sys.exit(0)
live()
"""
)
REFUSED_FRONT = (
    CHILD
    + """
note("front refused")
sys.exit(1)
"""
)
STUCK_WORKER = (
    CHILD
    + """
pulse = Pulse(0.1)
pulse.start(1)
note(f"worker {os.getpid()}")
with pulse.step():
    live()
"""
)
DYING_WORKER = (
    CHILD
    + """
note("worker born")
os.kill(os.getpid(), signal.SIGKILL)
"""
)
HOPELESS_WORKER = CHILD + "sys.exit(EXIT_BAD_SETTINGS)"


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path / "notes")


def start(notes: Notes, *, worker: str = WORKER, front: str = FRONT, **others: float) -> asyncio.Task[int]:
    settings = ServeSettings(run_dir=str(notes.path), grace_seconds=20, **others)  # type: ignore[arg-type]
    return asyncio.create_task(Server(settings, ("-c", worker), ("-c", front)).run())


def test_backoff_doubles_to_its_end_and_starts_again_after_a_healthy_life() -> None:
    backoff = Backoff(max_restarts=100)
    assert [backoff.next_delay(1.0) for _ in range(8)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])
    assert [backoff.next_delay(60.0), backoff.next_delay(1.0)] == pytest.approx([0.1, 0.2])


async def test_sigterm_ends_the_front_first_and_then_the_worker(notes: Notes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    server = start(notes)
    await notes.until("front")
    await notes.until("worker")
    os.kill(os.getpid(), signal.SIGTERM)
    assert await status_of(server) == 0
    assert notes.lines()[-2:] == ["front ends", "worker ends"]
    assert "serving on 127.0.0.1:1" in caplog.messages


async def test_a_second_signal_ends_everything_at_once(notes: Notes) -> None:
    server = start(notes, front=STUBBORN_FRONT)
    await notes.until("worker")
    await notes.until("front")
    os.kill(os.getpid(), signal.SIGINT)
    await notes.until("front stays")
    os.kill(os.getpid(), signal.SIGINT)
    assert await status_of(server) == 128 + signal.SIGINT
    assert "worker ends" not in notes.lines()


async def test_a_dead_worker_is_started_again(notes: Notes) -> None:
    server = start(notes, worker=DYING_WORKER)
    await notes.until("worker born", times=3)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await status_of(server) == 0


async def test_a_worker_that_dies_young_too_often_ends_the_server(notes: Notes, caplog: pytest.LogCaptureFixture) -> None:
    assert await status_of(start(notes, worker=DYING_WORKER, max_worker_restarts=2)) == 1
    assert notes.lines().count("worker born") == 3
    assert "one too many: giving up" in caplog.text


async def test_a_worker_that_is_stopped_is_killed_and_another_started(notes: Notes, caplog: pytest.LogCaptureFixture) -> None:
    server = start(notes, worker_silence_seconds=0.5)
    await notes.until("worker")
    os.kill(notes.pid("worker"), signal.SIGSTOP)
    await notes.until("worker", times=2)
    assert f"worker {notes.pid('worker')} gave no sign of life for 0.5 s, killing it" in caplog.messages
    os.kill(os.getpid(), signal.SIGTERM)
    assert await status_of(server) == 0


async def test_a_worker_whose_device_does_not_come_back_is_killed_and_another_started(notes: Notes) -> None:
    server = start(notes, worker=STUCK_WORKER, worker_silence_seconds=0.5)
    await notes.until("worker", times=2)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await status_of(server) == 0


async def test_a_front_that_died_before_the_end_is_not_started_during_it(
    notes: Notes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("service.keeper._FIRST_DELAY_SECONDS", 0.5)
    server = start(notes, front=MORTAL_FRONT, fronts=2)
    await until(lambda: "front 1 ended with status 0, the next starts in 0.5 s" in caplog.messages)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await status_of(server) == 0
    assert sum(message.startswith("front 1 started") for message in caplog.messages) == 1


async def test_a_front_that_ends_ends_the_server_with_its_status(notes: Notes, caplog: pytest.LogCaptureFixture) -> None:
    assert await status_of(start(notes, front=REFUSED_FRONT)) == 1
    assert "front 0 ended with status 1" in caplog.messages


async def test_a_worker_that_can_never_start_ends_the_server(notes: Notes, caplog: pytest.LogCaptureFixture) -> None:
    assert await status_of(start(notes, worker=HOPELESS_WORKER)) == 1
    assert "worker 0 cannot run with these settings" in caplog.messages


async def test_children_do_not_outlive_a_parent_that_is_killed(notes: Notes) -> None:
    code = (
        "import asyncio, sys; from service.config import ServeSettings; from service.server import Server;"
        "asyncio.run(Server(ServeSettings(run_dir=sys.argv[1]), ('-c', sys.argv[2]), ('-c', sys.argv[3])).run())"
    )
    arguments = ("-c", code, str(notes.path), WORKER, FRONT)
    parent = await asyncio.create_subprocess_exec(sys.executable, *arguments)
    await notes.until("worker")
    await notes.until("front")
    children = [os.pidfd_open(notes.pid(name)) for name in ("worker", "front")]
    parent.kill()
    await parent.wait()
    for child in children:
        ended, _, _ = select.select([child], [], [], PATIENCE_SECONDS)
        os.close(child)
        assert ended


def test_a_folder_that_cannot_hold_the_socket_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="run_dir='/nowhere'"):
        serve(ServeSettings(run_dir="/nowhere"))
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    with pytest.raises(SettingsError, match="too long for a unix socket"):
        serve(ServeSettings(run_dir=str(deep)))
    assert list(deep.iterdir()) == []

"""The parent: what it starts, restarts and ends, with children made for the test; and whole crashes with a real worker."""

import asyncio
import os
import select
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio
import tiny
from tiny import FakeTarget, Observed

from service.config import ServeSettings, SettingsError
from service.errors import PoisonedFrame
from service.front.workers.engine import Engine
from service.front.workers.items import Answer
from service.keeper import Backoff
from service.server import Server, serve

PATIENCE_SECONDS = 60.0

# Children of the test's own. Each writes down what happens to it, one line an event, in the file run_dir names.
CHILD = """
import os, signal, sys, time
from service.child import EXIT_BAD_SETTINGS, begin
from service.pulse import Pulse
settings = begin()
def note(words):
    with open(settings.run_dir, "a") as notes:
        notes.write(f"{words}\\n")
def live():
    while True:
        signal.pause()
def end(name):
    note(f"{name} ends")
    sys.exit(0)
"""
FRONT = (
    CHILD
    + """
signal.signal(signal.SIGTERM, lambda *_: end("front"))
note(f"front {os.getpid()}")
print("READY 127.0.0.1:1", flush=True)
live()
"""
)
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
WORKER = (
    CHILD
    + """
Pulse(60).start(1)
signal.signal(signal.SIGTERM, lambda *_: end("worker"))
note(f"worker {os.getpid()}")
live()
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

# The real worker, which dies of a search crop that begins with these bytes.
POISON = b"poison"
MORTAL_WORKER = f"""
import os, signal
from service.worker.runner import Runner
from service.worker.worker import serve
run = Runner.run
def die_of_poison(self, works):
    if any(work.search.startswith({POISON!r}) for work in works):
        os.kill(os.getpid(), signal.SIGKILL)
    return run(self, works)
Runner.run = die_of_poison
serve(Runner)
"""


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.02)


class Notes:
    """What the children wrote down."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines()

    async def until(self, words: str, times: int = 1) -> None:
        """Wait until so many lines begin like this."""
        await until(lambda: sum(line.startswith(words) for line in self.lines()) >= times)

    def pid(self, name: str) -> int:
        return int(next(line.split()[1] for line in self.lines() if line.startswith(f"{name} ")))


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path / "notes")


def start(notes: Notes, *, worker: str = WORKER, front: str = FRONT, **others: float) -> asyncio.Task[int]:
    settings = ServeSettings(run_dir=str(notes.path), grace_seconds=20, **others)  # type: ignore[arg-type]
    return asyncio.create_task(Server(settings, ("-c", worker), ("-c", front)).run())


async def status_of(server: asyncio.Task[int]) -> int:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await server


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


class Linked(NamedTuple):
    """A front's engine, linked to a real worker that a real parent watches."""

    engine: Engine
    observed: Observed
    first_worker: int

    async def stream(self, client: str, target: FakeTarget, frames: int) -> list[Answer]:
        """The same picture again and again, one frame at a time."""
        return [await self.engine.submit(client, target, tiny.search_crop()) for _ in range(frames)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def linked(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Linked]:
    folder = tmp_path_factory.mktemp("server")
    settings = tiny.settings(
        tiny_weights, worker_socket=str(folder / "worker.sock"), run_dir=str(folder / "notes"), max_batch=4, slots=16
    )
    server = asyncio.create_task(Server(settings, ("-c", MORTAL_WORKER), ("-c", FRONT)).run())
    observed = Observed()
    engine = Engine(settings.worker_socket, PATIENCE_SECONDS, observed)
    async with asyncio.timeout(PATIENCE_SECONDS):
        hello = await engine.connect()
    yield Linked(engine, observed, hello.pid)
    await engine.close()
    os.kill(os.getpid(), signal.SIGTERM)
    assert await status_of(server) == 0


@pytest.mark.asyncio(loop_scope="module")
async def test_every_frame_is_answered_though_the_worker_is_killed_under_load(linked: Linked) -> None:
    targets = [FakeTarget(number) for number in range(5)]
    streams = [asyncio.create_task(linked.stream(f"client {number}", each, 6)) for number, each in enumerate(targets)]
    await until(lambda: len(linked.observed.stats) >= 3)
    os.kill(linked.first_worker, signal.SIGKILL)
    for answers in await asyncio.gather(*streams):
        assert len(answers) == 6
        for answer in answers:
            assert answer.box == pytest.approx(answers[0].box, abs=1e-4), "its memory was made again from its templates"
    assert linked.observed.events == ["lost", "reconnect"]


@pytest.mark.asyncio(loop_scope="module")
async def test_slots_in_use_return_to_zero_after_the_last_release(linked: Linked) -> None:
    targets = [FakeTarget(number) for number in range(5)]
    await asyncio.gather(*(linked.stream("alice", target, 1) for target in targets))
    await until(lambda: linked.observed.pongs[-1] >= 5)
    for target in targets * 2:  # of this test and of the one before
        linked.engine.release(target.memory_key)
    await until(lambda: linked.observed.pongs[-1] == 0)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_frame_that_kills_the_worker_twice_is_refused_and_the_others_go_on(linked: Linked) -> None:
    streams = [asyncio.create_task(linked.stream(f"client {number}", FakeTarget(number), 4)) for number in range(3)]
    crop = POISON + tiny.search_crop()[len(POISON) :]
    linked.observed.events.clear()
    with pytest.raises(PoisonedFrame):
        await linked.engine.submit("mallory", FakeTarget(9), crop)
    assert [len(answers) for answers in await asyncio.gather(*streams)] == [4, 4, 4]
    assert linked.observed.events.count("lost") == 2

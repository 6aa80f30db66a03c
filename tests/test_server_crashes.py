"""A real parent with a real worker that dies: what the front's engine gets all the same."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio
import tiny
from children import FRONT, PATIENCE_SECONDS, status_of, until
from tiny import FakeTarget, Observed

from service.errors import PoisonedFrame
from service.front.workers.engine import Engine
from service.front.workers.items import Answer
from service.server import Server

# The real worker, which dies of a search crop that begins with these bytes.
POISON = b"poison"


MORTAL_WORKER = f"""
import os, signal
from service.worker.runner import Runner
from service.worker.worker import serve
start = Runner.start
def die_of_poison(self, works):
    if any(work.search.startswith({POISON!r}) for work in works):
        os.kill(os.getpid(), signal.SIGKILL)
    return start(self, works)
Runner.start = die_of_poison
serve(Runner)
"""


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

"""What tests of several rooms need."""

import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from fake_front import FakeTime
from scripted_worker import PATIENCE_SECONDS, ScriptedWorker
from tiny import Observed

from model.checkpoint import save_model
from model.config import VARIANTS, UpdateRule
from model.mixformer import MixFormer
from service.front.workers.engine import Engine


@pytest.fixture(scope="session", autouse=True)
def heeded_interrupts() -> None:
    """Where a shell started the tests in the background, it had them ignore Ctrl-C, and so would every process that they start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def cache_of_compiled_networks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A user's cache folder for this run alone: the processes that tests start compile a network once, and leave nothing behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of the smallest variant. Its values are random: it tracks nothing."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    torch.manual_seed(0)
    save_model(path, MixFormer(VARIANTS["mixvit_tiny"]).eval(), UpdateRule())
    return path


@pytest_asyncio.fixture
async def worker(tmp_path: Path) -> AsyncIterator[ScriptedWorker]:
    """A worker that says what the test has it say."""
    scripted = ScriptedWorker(tmp_path / "worker.sock")
    await scripted.start()
    yield scripted
    await scripted.stop()


@pytest.fixture
def observed() -> Observed:
    """What the front's other rooms heard of that worker."""
    return Observed()


@pytest.fixture
def clock() -> FakeTime:
    """The clock of `engine`."""
    return FakeTime()


@pytest_asyncio.fixture
async def engine(worker: ScriptedWorker, tmp_path: Path, observed: Observed, clock: FakeTime) -> AsyncIterator[Engine]:
    """A front's engine, linked to that worker."""
    engine = Engine(str(tmp_path / "worker.sock"), PATIENCE_SECONDS, observed, clock)
    await engine.connect()
    yield engine
    await engine.close()

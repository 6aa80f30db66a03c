"""A worker whose every word a test says."""

import asyncio
from pathlib import Path
from typing import TypeVar

from tiny import FakeTarget

from service.errors import ServiceError
from service.front.workers.engine import Engine
from service.front.workers.items import Answer
from service.messages import (
    PROTOCOL_VERSION,
    Hello,
    Message,
    Predicted,
    ToWorker,
    TrackItem,
    decode_to_worker,
    encode,
    split,
)

PATIENCE_SECONDS = 10.0
HELLO = Hello(PROTOCOL_VERSION, 1, "mixvit_tiny", "", "cpu", "float32", 8, 4, 128, 256, 2.0, 4.5, True, {})

Expected = TypeVar("Expected", bound=Message)


class ScriptedWorker:
    """Listens like a worker, answers nothing by itself but the hello."""

    def __init__(self, path: Path, hello: Message = HELLO) -> None:
        self._path = path
        self._hello = hello
        self._server: asyncio.Server | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._heard: asyncio.Queue[ToWorker] = asyncio.Queue()
        self.left = asyncio.Event()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._listen, self._path)

    async def stop(self) -> None:
        """Vanish, as a killed process does: no listener, no link."""
        assert self._server is not None
        self._server.close()
        self._path.unlink(missing_ok=True)
        if self._writer is not None:
            self._writer.close()

    def restart_with(self, hello: Message) -> None:
        """Be another worker for the next link."""
        self._hello = hello
        self.hang_up()

    def hang_up(self) -> None:
        """End the link, after what was said."""
        assert self._writer is not None
        self._writer.close()

    def say(self, *messages: Message) -> None:
        assert self._writer is not None
        for message in messages:
            self._writer.write(encode(message))

    def answer(self, item: TrackItem) -> None:
        """A prediction in which the item can be recognised."""
        self.say(Predicted(item.item_id, (0.5, 0.5, item.search[0] / 256, 0.25), 0.75, 0.01, 0.02, 3))

    async def hear(self, kind: type[Expected]) -> Expected:
        """The next message of this kind; others before it are skipped."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not isinstance(message := await self._heard.get(), kind):
                pass
        return message

    def heard_nothing_but(self, *kinds: type[Message]) -> bool:
        return all(isinstance(self._heard.get_nowait(), kinds) for _ in range(self._heard.qsize()))

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.say(self._hello)
        received = bytearray()
        while chunk := await reader.read(65536):
            received += chunk
            for body in split(received):
                self._heard.put_nowait(decode_to_worker(body))
        self.left.set()


def submit(engine: Engine, target: FakeTarget, crop: bytes = b"\x40crop", client: str = "alice") -> asyncio.Task[Answer]:
    """A crop that goes to the engine."""
    return asyncio.create_task(engine.submit(client, target, crop))


async def fate(task: asyncio.Task[Answer]) -> Answer | ServiceError:
    """How a submit ended."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(outcome, Answer | ServiceError), outcome
    return outcome

"""Children that a test gives the parent: each writes down what happens to it."""

import asyncio
from collections.abc import Callable
from pathlib import Path

PATIENCE_SECONDS = 60.0
# One line an event, in the file run_dir names.
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
WORKER = (
    CHILD
    + """
Pulse(60).start(1)
signal.signal(signal.SIGTERM, lambda *_: end("worker"))
note(f"worker {os.getpid()}")
live()
"""
)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
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


async def status_of(server: asyncio.Task[int]) -> int:
    """The exit status of a parent that ends."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await server

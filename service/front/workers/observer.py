"""What the front's other rooms hear of a worker."""

from typing import Protocol

from service.messages import BatchStats, Hello


class EngineObserver(Protocol):
    """Hears what metrics are made of; called on the event loop."""

    def on_hello(self, hello: Hello) -> None:
        """A worker said what it runs: the first one, or one that came back."""

    def on_stats(self, stats: BatchStats) -> None:
        """The worker made a step."""

    def on_pong(self, slots_in_use: int) -> None:
        """The worker's device answered a ping; this many of its slots hold a memory."""

    def on_missing(self) -> None:
        """The worker did not hold a memory that it was thought to hold."""

    def on_lost(self) -> None:
        """The link to the worker ended."""

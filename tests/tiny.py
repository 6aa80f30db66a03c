"""What tests of the worker's side share: settings, targets and crops for the tiny network."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from model.config import VARIANTS
from model.crop import Image
from service.config import ServeSettings
from service.messages import BatchStats, Hello

CONFIG = VARIANTS["mixvit_tiny"]


def settings(weights: Path, **others: object) -> ServeSettings:
    """Settings of a worker that keeps to one core."""
    return ServeSettings(weights=str(weights), device="cpu", precision="float32", threads=1, **others)  # type: ignore[arg-type]


def crop(seed: int, side: int) -> Image:
    """A crop of noise, uint8 [side, side, 3]; equal seeds give equal crops."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def search_crop(seed: int = 0) -> bytes:
    """A search crop as it goes over the wire."""
    return crop(seed, CONFIG.search_size).tobytes()


def template_crops(seed: int = 0, online: int = 1) -> tuple[bytes, ...]:
    """A template and online templates as they go over the wire."""
    return tuple(crop(1000 * seed + number, CONFIG.template_size).tobytes() for number in range(1 + online))


class FakeTarget:
    """A target whose memory is named by a number."""

    def __init__(self, number: int) -> None:
        self.memory_key = number.to_bytes(16, "big")
        self.templates = tuple(crop(1000 * number + each, CONFIG.template_size) for each in range(2))


@dataclass
class Observed:
    """An EngineObserver that remembers."""

    stats: list[BatchStats] = field(default_factory=list)
    pongs: list[int] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    hellos: list[Hello] = field(default_factory=list)

    def on_hello(self, hello: Hello) -> None:
        if self.hellos:
            self.events.append("reconnect")
        self.hellos.append(hello)

    def on_stats(self, stats: BatchStats) -> None:
        self.stats.append(stats)

    def on_pong(self, slots_in_use: int) -> None:
        self.pongs.append(slots_in_use)

    def on_missing(self) -> None:
        self.events.append("missing")

    def on_lost(self) -> None:
        self.events.append("lost")

"""A device that is not there: passes of a fixed length and made-up boxes, for load and scheduling tests on any machine.

Run as `python -m service.worker.simulated`, which the parent does for `--device simulated`. What it says of speed is what it was
told, and what it says of targets means nothing; but a box depends on the search crop and on the templates in the slot, and on
nothing else, so that a mix-up of frames, sessions or slots shows. It needs neither weights nor torch.
"""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import NamedTuple

from model.config import VARIANTS, UpdateRule
from model.geometry import CropBox
from service.config import SIMULATED_DEVICE, ServeSettings, SettingsError
from service.messages import PROTOCOL_VERSION, Hello, TrackItem
from service.worker.work import Found, StepResult, StepTimes, Work, crop_fault
from service.worker.worker import serve

_DEFAULT_VARIANT = "mixvit_tiny"
_DEFAULT_SLOTS = 1024
# How far a target moves a frame at most, in shares of its search crop: it stays in sight for thousands of frames.
_LARGEST_STEP = 0.01

_log = logging.getLogger(__name__)


class RunningStep(NamedTuple):
    """A step whose time is not over yet."""

    told: StepResult
    wait: Callable[[], None]

    def result(self) -> StepResult:
        """Sleeps until then."""
        self.wait()
        return self.told


class SimulatedRunner:
    """Stands in for `runner.Runner`. A pass takes `simulated_batch_ms`, and `simulated_item_ms` for each target and new memory."""

    def __init__(
        self,
        settings: ServeSettings,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Raises SettingsError where the variant is not known."""
        variant = settings.variant or _DEFAULT_VARIANT
        if variant not in VARIANTS:
            raise SettingsError(f"variant={variant!r} is none of {', '.join(VARIANTS)}")
        self._config = VARIANTS[variant]
        self._batch_seconds, self._item_seconds = settings.simulated_batch_ms / 1000, settings.simulated_item_ms / 1000
        self._clock, self._sleep = clock, sleep
        self.slots = settings.slots or _DEFAULT_SLOTS
        self.max_batch = min(settings.max_batch, self.slots)
        self.steps_under_way = settings.simulated_steps
        self._memories = [b""] * self.slots
        self._free_at = 0.0
        _log.warning(
            "SIMULATED DEVICE: no network runs here and every box is made up; a pass takes %g ms, and %g ms for each target",
            settings.simulated_batch_ms, settings.simulated_item_ms,
        )  # fmt: skip

    def hello(self) -> Hello:
        """What a front needs to know of this worker."""
        config = self._config
        return Hello(
            protocol_version=PROTOCOL_VERSION, pid=os.getpid(), variant=config.name, weights_sha256="",
            device=SIMULATED_DEVICE, precision=SIMULATED_DEVICE, slots=self.slots, max_batch=self.max_batch,
            template_size=config.template_size, search_size=config.search_size, template_factor=config.template_factor,
            search_factor=config.search_factor, has_score_head=config.has_score_head, update_rule=asdict(UpdateRule()),
        )  # fmt: skip

    def fault(self, item: TrackItem) -> str | None:
        """What is wrong with an item's crops, in words; None where they fit the network that is simulated."""
        return crop_fault(item, self._config)

    def ping(self) -> None:
        """This device always answers."""

    def shrink(self) -> bool:
        """There is nothing to give back."""
        return False

    def run(self, works: Sequence[Work]) -> StepResult:
        """One step, waited for."""
        return self.start(works).result()

    def start(self, works: Sequence[Work]) -> RunningStep:
        """Remember the memories that are new and make up a box for every item, in the time that stands in the settings."""
        began_at = max(self._free_at, self._clock())
        fresh = {work.slot: work.templates for work in works if work.templates}
        for slot, templates in fresh.items():
            self._memories[slot] = _digest(*templates)
        drawn = [_digest(self._memories[work.slot], work.search) for work in works]
        encode_seconds = len(fresh) * self._item_seconds
        track_seconds = self._batch_seconds + len(works) * self._item_seconds
        self._free_at = began_at + encode_seconds + track_seconds
        outcomes = tuple(Found(self._box(each), self._score(each), track_seconds, len(works)) for each in drawn)
        times = StepTimes(len(works), {"all": track_seconds}, 0.0, len(fresh), encode_seconds)
        return RunningStep(StepResult(outcomes, frozenset(), times), partial(self._wait_until, self._free_at))

    def _wait_until(self, moment: float) -> None:
        self._sleep(max(0.0, moment - self._clock()))

    def _box(self, drawn: bytes) -> CropBox:
        """As large as the target was, and a little aside."""
        aside, down = (2 * _LARGEST_STEP * (byte / 255 - 0.5) for byte in drawn[:2])
        side = 1 / self._config.search_factor
        return CropBox(0.5 + aside, 0.5 + down, side, side)

    def _score(self, drawn: bytes) -> float | None:
        """High enough to be tracked, and different from frame to frame."""
        return 0.8 + 0.2 * drawn[2] / 256 if self._config.has_score_head else None


def _digest(*parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.digest()


if __name__ == "__main__":
    serve(SimulatedRunner)

"""A worker that runs a small real network and that a test can break, by files in the folder `run_dir`: `python -m frail_worker`.

`lost`: the device is lost in the next step. `full`: the most targets that a pass has memory for.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from model.config import VARIANTS
from service.config import ServeSettings
from service.worker.passes import RunningStep
from service.worker.runner import Runner
from service.worker.work import Work
from service.worker.worker import serve

_TINY = VARIANTS["mixvit_tiny"]
SMALL = replace(_TINY, stages=(replace(_TINY.stages[0], depth=2),), template_size=64, search_size=128, head_channels=32)


class FrailRunner(Runner):
    """The real runner, and two ways to fail."""

    def __init__(self, settings: ServeSettings) -> None:
        self._folder = Path(settings.run_dir)
        super().__init__(settings)

    def start(self, works: Sequence[Work]) -> RunningStep:
        """A step, unless the device is lost."""
        lost = self._folder / "lost"
        if lost.exists():
            lost.unlink()
            raise RuntimeError("the device is lost, says the test")
        return super().start(works)

    def _track(self, works: Sequence[Work], *others: Any, **named: Any) -> Any:
        full = self._folder / "full"
        if full.exists() and len(works) > int(full.read_text()):
            raise torch.OutOfMemoryError(f"no room for {len(works)}, says the test")
        return super()._track(works, *others, **named)


if __name__ == "__main__":
    VARIANTS[SMALL.name] = SMALL
    serve(FrailRunner)

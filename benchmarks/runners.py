"""The worker's runner, and targets for it."""

import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.networks import folded_network, random_crops
from model.checkpoint import save_model
from service.config import ServeSettings
from service.worker.runner import Runner
from service.worker.work import Work


def random_runner(variant: str, settings: ServeSettings) -> Runner:
    """A runner of the variant, warmed up. Its weights are not those of `settings`."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "random.safetensors"
        save_model(weights, folded_network(variant))
        return Runner(replace(settings, weights=str(weights)))


def tracked_targets(runner: Runner, count: int, online: int = 1) -> list[Work]:
    """An item for each of `count` targets, whose memories with so many online templates are in their slots already."""
    hello = runner.hello()
    search = random_crops(hello.search_size, hello.search_size).numpy().tobytes()
    template = random_crops(hello.template_size, hello.template_size).numpy().tobytes()
    for first in range(0, count, runner.max_batch):
        slots = range(first, min(count, first + runner.max_batch))
        runner.run([Work(slot, search, (template,) * (1 + online)) for slot in slots])
    return [Work(slot, search, ()) for slot in range(count)]

"""Frames a second of the worker's runner, in process: one session alone, and eight in one batch."""

import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.networks import random_crops, random_network
from benchmarks.timing import Figure, Options, seconds_in_turn
from model.checkpoint import save_model
from service.config import ServeSettings
from service.worker.runner import Runner
from service.worker.work import Work

VARIANT = "mixvit_tiny"
SESSIONS = 8


def measure(options: Options) -> dict[str, Figure]:
    """Each session's target is in its slot before the clock starts."""
    settings = ServeSettings(device="cpu", threads=options.threads, slots=SESSIONS, max_batch=SESSIONS)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "random.safetensors"
        save_model(weights, random_network(VARIANT))
        runner = Runner(replace(settings, weights=str(weights)))
    works = [_new_target(runner, slot) for slot in range(SESSIONS)]
    runner.run(works)
    tracked = [work._replace(templates=()) for work in works]
    seconds = seconds_in_turn({"one": lambda: runner.run(tracked[:1]), "eight": lambda: runner.run(tracked)}, options)
    return {
        "mixvit_tiny_fps_one_session": Figure.of([1 / each for each in seconds["one"]], "frames/s"),
        "mixvit_tiny_fps_eight_sessions": Figure.of([SESSIONS / each for each in seconds["eight"]], "frames/s"),
    }


def _new_target(runner: Runner, slot: int) -> Work:
    hello = runner.hello()
    template = random_crops(hello.template_size, hello.template_size).numpy().tobytes()
    return Work(slot, random_crops(hello.search_size, hello.search_size).numpy().tobytes(), (template, template))

"""Frames a second of the worker's runner with the shipped weights on a CPU, in process: one session, and eight in one batch."""

from dataclasses import replace

from benchmarks.runners import tracked_targets
from benchmarks.timing import Figure, Options, seconds_in_turn
from service.commands.weights import DEFAULT_WEIGHTS
from service.config import ServeSettings
from service.worker.runner import Runner

SESSIONS = 8


def measure(options: Options) -> dict[str, Figure]:
    """Each session's target is in its slot before the clock starts."""
    settings = ServeSettings(device="cpu", threads=options.threads, slots=SESSIONS, max_batch=SESSIONS)
    runner = Runner(replace(settings, weights=str(DEFAULT_WEIGHTS)))
    tracked = tracked_targets(runner, SESSIONS)
    seconds = seconds_in_turn({"one": lambda: runner.run(tracked[:1]), "eight": lambda: runner.run(tracked)}, options)
    return {
        "mixvit_tiny_fps_one_session": Figure.of([1 / each for each in seconds["one"]], "frames/s"),
        "mixvit_tiny_fps_eight_sessions": Figure.of([SESSIONS / each for each in seconds["eight"]], "frames/s"),
    }

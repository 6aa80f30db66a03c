"""Frames a second of the worker's runner on a CPU, in process: one session alone, and eight in one batch."""

from benchmarks.runners import random_runner, tracked_targets
from benchmarks.timing import Figure, Options, seconds_in_turn
from service.config import ServeSettings

VARIANT = "mixvit_tiny"
SESSIONS = 8


def measure(options: Options) -> dict[str, Figure]:
    """Each session's target is in its slot before the clock starts."""
    settings = ServeSettings(device="cpu", threads=options.threads, slots=SESSIONS, max_batch=SESSIONS)
    runner = random_runner(VARIANT, settings)
    tracked = tracked_targets(runner, SESSIONS)
    seconds = seconds_in_turn({"one": lambda: runner.run(tracked[:1]), "eight": lambda: runner.run(tracked)}, options)
    return {
        "mixvit_tiny_fps_one_session": Figure.of([1 / each for each in seconds["one"]], "frames/s"),
        "mixvit_tiny_fps_eight_sessions": Figure.of([SESSIONS / each for each in seconds["eight"]], "frames/s"),
    }

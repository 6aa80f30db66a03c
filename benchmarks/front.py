"""The front's CPU time for a frame beside decoding, with nothing else to wait for, and that of the least front there can be.

Both take the same load in turns: eight cameras over gRPC that send as fast as they are answered. The service's front has a
simulated device whose passes take no time; the other one (`benchmarks/floor.py`) does nothing but read, decode and answer. What
lies between them is what sessions, crops, the link to the worker and metrics cost; what lies below is gRPC, the event loop and
the way into a thread and back, whatever is done with the frames.
"""

import tempfile
from pathlib import Path

from benchmarks import rounds
from benchmarks.load import Load, Round, running_child, running_front
from benchmarks.timing import Figure, Options
from service.commands.clip import made_up_clip
from service.config import SIMULATED_DEVICE, ServeSettings

WIDTH, HEIGHT = 640, 360
SESSIONS = 8
# In Load's results decoding is CPU time where the front is one of these.
FRONT, FLOOR = "benchmarks.cpu_decoding", "benchmarks.floor"


def measure(options: Options) -> dict[str, Figure]:
    """`front_busy_ms_per_frame`, `front_floor_ms_per_frame`: CPU time without decoding; `front_over_floor`: their ratio, turn by turn."""
    clip = made_up_clip(WIDTH, HEIGHT)
    with tempfile.TemporaryDirectory() as folder:
        settings = ServeSettings(
            listen="127.0.0.1:0", metrics="127.0.0.1:0", device=SIMULATED_DEVICE, simulated_batch_ms=0.0, simulated_item_ms=0.0,
            worker_socket=str(Path(folder) / "worker.sock"), log_level="error",
        )  # fmt: skip
        with (
            running_child("service.worker.simulated", settings),
            running_front(settings, FRONT) as front,
            running_front(settings, FLOOR) as floor,
        ):
            turns = [[rounds.run(Load(clip, *each).run(SESSIONS)) for each in (front, floor)] for _ in range(options.repeats)]
    busy, least = ([ms_beside_decoding(each) for each in side] for side in zip(*turns, strict=True))
    return {
        "front_busy_ms_per_frame": Figure.of(busy, "ms"),
        "front_floor_ms_per_frame": Figure.of(least, "ms"),
        "front_over_floor": Figure.of([a / b for a, b in zip(busy, least, strict=True)], "ratio"),
    }


def ms_beside_decoding(measured: Round) -> float:
    """CPU time of the front for a frame, without what its results say of decoding."""
    return 1000 * (measured.front_cpu - measured.decode) / measured.frames

"""What the metrics cost: CPU time of the front for a frame, with them and without.

Two real fronts on one worker, alike but for the calls that count, take the same load in turns, over gRPC. The device is a
simulated one whose passes take no time, so that the front is what limits the frames a second: its CPU time a frame is what
throughput is made of. A batch is a frame or two then, so that more is counted a frame than beside a real device. The front that
counts is scraped once a round, more often than Prometheus does.
"""

import asyncio
import socket
import tempfile
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

from benchmarks import rounds
from benchmarks.load import Load, Round, running_child, running_front
from benchmarks.timing import Figure, Options
from model.geometry import Box
from model.target import TargetReport, TargetStatus
from service.commands.clip import made_up_clip
from service.config import SIMULATED_DEVICE, ServeSettings
from service.front.frames import FrameResult, Outcome, Timing
from service.front.telemetry.metrics import Metrics
from service.messages import BatchStats

WIDTH, HEIGHT = 640, 360
SESSIONS = 8
CALLS = 5000
RESULT = FrameResult(
    1, Outcome.PROCESSED, {"": TargetReport(Box(1, 2, 3, 4), 0.9, TargetStatus.TRACKED, 0, False)}, None,
    Timing(decode=0.002, queue=0.001, backbone=0.02, total=0.03, batch_size=1),
)  # fmt: skip
STATS = BatchStats(1, 1, {"all": 0.02}, 0.001, 0, 0.0, 8, 0, 8, 8)


def measure(options: Options) -> dict[str, Figure]:
    """`metrics_cpu_ratio`: CPU time of the front for a frame with metrics over that without; 1.02 costs 2 % of throughput.

    `metrics_share_of_front`: CPU time of the calls that count one frame in a batch of its own, over the front's for a frame.
    """
    clip, port = made_up_clip(WIDTH, HEIGHT), _free_port()
    counted, uncounted = [], []
    with tempfile.TemporaryDirectory() as folder:
        without = ServeSettings(
            listen="127.0.0.1:0", metrics="127.0.0.1:0", device=SIMULATED_DEVICE, simulated_batch_ms=0.0,
            worker_socket=str(Path(folder) / "worker.sock"), log_level="error",
        )  # fmt: skip
        with_metrics = replace(without, metrics=f"127.0.0.1:{port}")
        with (
            running_child("service.worker.simulated", without),
            running_front(with_metrics) as counting,
            running_front(without, "benchmarks.uncounted") as not_counting,
        ):
            for number in range(options.repeats):
                if number % 2:  # neither side always comes first
                    counted.append(rounds.run(_scraped(Load(clip, *counting), port)))
                uncounted.append(rounds.run(Load(clip, *not_counting).run(SESSIONS)))
                if not number % 2:
                    counted.append(rounds.run(_scraped(Load(clip, *counting), port)))
    raw = {"with_ms": [_ms(each) for each in counted], "without_ms": [_ms(each) for each in uncounted]}
    ratios = [longer / shorter for longer, shorter in zip(raw["with_ms"], raw["without_ms"], strict=True)]
    calls_ms = [_calls_ms() for _ in raw["without_ms"]]
    shares = [calls / front for calls, front in zip(calls_ms, raw["without_ms"], strict=True)]
    return {
        "metrics_cpu_ratio": Figure.of(ratios, "ratio", raw),
        "metrics_share_of_front": Figure.of(shares, "ratio", {"calls_ms": calls_ms}),
    }


async def _scraped(load: Load, port: int) -> Round:
    running = asyncio.create_task(load.run(SESSIONS))
    await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read())
    return await running


def _calls_ms() -> float:
    """CPU time of counting one frame with one target, and the batch of one that it was tracked in."""
    metrics = Metrics()
    worker = metrics.worker(0)
    began_at = time.thread_time()
    for _ in range(CALLS):
        metrics.on_received()
        metrics.on_decoded(RESULT.timing.decode)
        worker.on_stats(STATS)
        metrics.on_frame(RESULT)
    return 1000 * (time.thread_time() - began_at) / CALLS


def _ms(measured: Round) -> float:
    """CPU time of the front for a frame."""
    return 1000 * measured.front_cpu / measured.frames


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port

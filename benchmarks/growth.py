"""`python -m benchmarks.growth`: how cost grows with sessions, templates and frame size. A table, a picture and the raw figures.

Sessions and frame sizes are measured on the whole service: real processes, MixViT-tiny on the CPU unless told otherwise, cameras that send
the next frame when the last one is answered, latency from sending to result. Templates are measured on the worker's runner, in batches of
eight.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import quantiles

import cv2
import psutil

from benchmarks import rounds
from benchmarks.chart import draw
from benchmarks.load import Load, running_child, running_front
from benchmarks.runners import tracked_targets
from model.config import MAX_ONLINE_TEMPLATES
from service.commands.clip import made_up_clip
from service.commands.weights import DEFAULT_WEIGHTS
from service.config import ServeSettings
from service.cpu import usable_cores
from service.worker.runner import Runner

SESSIONS = (1, 2, 4, 8, 16, 32, 64)
SIZES = ((640, 360), (1280, 720), (1920, 1080), (3840, 2160))
SESSIONS_OF_A_SIZE = 4
BATCH = 8
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Point:
    """One measurement: `name` on its axis, frames a second of all sessions together, latencies in ms."""

    name: str
    frames_per_second: float
    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, name: object, frames: int, seconds: float, latencies: Sequence[float]) -> "Point":
        """The point of these latencies, in seconds."""
        shares = quantiles(latencies, n=100, method="inclusive")
        return cls(str(name), frames / seconds, 1000 * shares[49], 1000 * shares[98])


def by_sessions(address: str, front: psutil.Process, seconds: float) -> Iterator[Point]:
    """More and more cameras of 640x360."""
    clip = made_up_clip(*SIZES[0])
    for sessions in SESSIONS:
        load = Load(clip, address, front, frames_ahead=1)
        found = rounds.run(load.run(sessions, seconds, least=2 * sessions))
        yield Point.of(sessions, found.frames, found.seconds, load.latencies)


def by_size(address: str, front: psutil.Process, seconds: float) -> Iterator[Point]:
    """A few cameras of larger and larger frames."""
    for width, height in SIZES:
        load = Load(made_up_clip(width, height), address, front, frames_ahead=1)
        found = rounds.run(load.run(SESSIONS_OF_A_SIZE, seconds, least=2 * SESSIONS_OF_A_SIZE))
        yield Point.of(f"{height}p", found.frames, found.seconds, load.latencies)


def by_templates(settings: ServeSettings, seconds: float) -> Iterator[Point]:
    """Batches of targets with more and more online templates."""
    runner = Runner(settings)
    for online in range(1, MAX_ONLINE_TEMPLATES + 1):
        works = tracked_targets(runner, BATCH, online)
        began, latencies = time.perf_counter(), list[float]()
        while time.perf_counter() < began + seconds or len(latencies) < 2:
            started = time.perf_counter()
            runner.run(works)
            latencies.append(time.perf_counter() - started)
        yield Point.of(online, BATCH * len(latencies), time.perf_counter() - began, latencies)


def measure(weights: Path, device: str, seconds: float) -> dict[str, list[Point]]:
    """All three, each point for so many seconds."""
    settings = ServeSettings(
        listen="127.0.0.1:0",
        metrics="127.0.0.1:0",
        weights=str(weights),
        device=device,
        log_level="warning",
        max_under_way=10_000,
    )
    with tempfile.TemporaryDirectory() as folder:
        settings = replace(settings, worker_socket=str(Path(folder) / "worker.sock"))
        with running_child("service.worker.runner", settings), running_front(settings) as (address, front):
            growth = {
                "sessions": _told("sessions", by_sessions(address, front, seconds)),
                "frame size": _told("frame size", by_size(address, front, seconds)),
            }
    return growth | {"online templates": _told("online templates", by_templates(settings, seconds))}


def _told(axis: str, points: Iterator[Point]) -> list[Point]:
    """The points, each printed as soon as it is there."""
    print(f"\n| {axis} | frames/s | p50 ms | p99 ms |\n|---|---|---|---|")
    told = []
    for point in points:
        print(f"| {point.name} | {point.frames_per_second:.1f} | {point.p50_ms:.0f} | {point.p99_ms:.0f} |", flush=True)
        told.append(point)
    return told


def main() -> None:
    """Measure, and write growth.json and growth.png."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each point (default %(default)s)")
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS, help="default: those that come along")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N (default %(default)s)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the figures go (default %(default)s)")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    growth = measure(arguments.weights, arguments.device, arguments.seconds)
    raw = {axis: [asdict(point) for point in points] for axis, points in growth.items()}
    machine = {"device": arguments.device, "cores": usable_cores()}
    report = {"weights": arguments.weights.name, **machine, "seconds": arguments.seconds, "growth": raw}
    (arguments.folder / "growth.json").write_text(json.dumps(report, indent=1) + "\n")
    columns = {
        axis: {
            "frames/s": [(point.name, point.frames_per_second) for point in points],
            "p50 ms": [(point.name, point.p50_ms) for point in points],
            "p99 ms": [(point.name, point.p99_ms) for point in points],
        }
        for axis, points in growth.items()
    }
    cv2.imwrite(str(arguments.folder / "growth.png"), draw(columns))


if __name__ == "__main__":
    main()

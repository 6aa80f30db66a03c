"""What the service adds to the network: its rate against the same network called in one process, and the front's own CPU time.

Both sides start from the same 640x360 JPEG frames and do the same for each: decode, crop, track, update rule. The service does it
with its real processes over gRPC on the loopback; CPU time of the client is taken off its wall time, spread over the cores.
Rounds of both sides take turns. Set OMP_WAIT_POLICY=passive, as the parent does for its worker, or the two sides differ in it.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil

from benchmarks import rounds
from benchmarks.front import FRONT, ms_beside_decoding
from benchmarks.load import ROUND_SECONDS, WARM_UP_FRAMES, Load, Round, running_child, running_front
from benchmarks.timing import Figure, Options
from model.config import UpdateRule
from model.target import Target
from service.commands.clip import Clip, made_up_clip
from service.commands.weights import DEFAULT_WEIGHTS
from service.config import Limits, ServeSettings
from service.decode import decode
from service.front.front import model_config
from service.worker.runner import Runner
from service.worker.work import Found, Work

WIDTH, HEIGHT = 640, 360
SESSIONS = {"one": 1, "eight": 8}


def measure(options: Options) -> dict[str, Figure]:
    """`service_share_of_in_process` (of one and eight sessions, the lower) and `front_ms_per_frame` (of eight, without decoding)."""
    clip = made_up_clip(WIDTH, HEIGHT)
    settings = ServeSettings(
        listen="127.0.0.1:0", metrics="127.0.0.1:0", weights=str(DEFAULT_WEIGHTS), device="cpu", threads=options.threads
    )
    shares: dict[str, Figure] = {}
    served: list[Round] = []
    with tempfile.TemporaryDirectory() as folder, _processes(settings, Path(folder)) as (address, front):
        runner = Runner(settings)
        for name, sessions in SESSIONS.items():
            alone = []
            served = []
            for _ in range(options.repeats):
                alone.append(_in_process_rate(sessions, clip, runner))
                served.append(rounds.run(Load(clip, address, front).run(sessions)))
            shares[f"service_share_of_in_process_{name}"] = _share(alone, served)
    return {
        "service_share_of_in_process": min(shares.values(), key=lambda figure: figure.value),
        **shares,
        "front_ms_per_frame": Figure.of([ms_beside_decoding(each) for each in served], "ms"),
        "client_ms_per_frame": Figure.of([1000 * each.client_cpu / each.frames for each in served], "ms"),
    }


def _share(alone: list[float], served: Sequence[Round]) -> Figure:
    raw = {
        "in_process_fps": alone,
        "service_fps": [each.rate for each in served],
        "service_fps_beside_the_client": [each.frames / each.seconds for each in served],
    }
    return Figure.of([rate / reference for rate, reference in zip(raw["service_fps"], alone, strict=True)], "ratio", raw)


def _in_process_rate(sessions: int, clip: Clip, runner: Runner) -> float:
    """Frames per second of a loop over all sessions, each turn one batch."""
    hello = runner.hello()
    config, rule = model_config(hello), UpdateRule(**hello.update_rule)  # type: ignore[arg-type]
    targets = [Target.start(config, rule, decode(clip.frame(0), Limits()), clip.box) for _ in range(sessions)]
    for number in range(WARM_UP_FRAMES):
        _track(targets, clip.frame(number), runner)
    started, turns = time.perf_counter(), 0
    while time.perf_counter() < started + ROUND_SECONDS:
        _track(targets, clip.frame(WARM_UP_FRAMES + turns), runner)
        turns += 1
    return sessions * turns / (time.perf_counter() - started)


def _track(targets: Sequence[Target], frame: bytes, runner: Runner) -> None:
    """One frame for each target; as cameras do not share frames, it is decoded for each."""
    images = [decode(frame, Limits()) for _ in targets]
    works = [
        # A report says that its templates are new, the first one too.
        Work(slot, target.search(image).tobytes(), _templates(target) if target.report.template_updated else ())
        for slot, (target, image) in enumerate(zip(targets, images, strict=True))
    ]
    for target, image, found in zip(targets, images, runner.run(works).outcomes, strict=True):
        assert isinstance(found, Found), found
        target.advance(image, found.box, found.score)


def _templates(target: Target) -> tuple[bytes, ...]:
    return tuple(crop.tobytes() for crop in target.templates)


@contextmanager
def _processes(settings: ServeSettings, folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    settings = replace(settings, worker_socket=str(folder / "worker.sock"), log_level="warning")
    with running_child("service.worker.runner", settings), running_front(settings, FRONT) as front:
        yield front

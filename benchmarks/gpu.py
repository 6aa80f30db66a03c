"""A GPU under full load, in process and in half precision: frames a second over many sessions, and a batch of one.

The runner is used as the worker uses it: batches of crops in main memory, the next one asked for before the answers of the last
are there. Left out where there is no GPU.
"""

import time
from collections import deque
from collections.abc import Sequence

import torch

from benchmarks.arithmetic import count_flops
from benchmarks.networks import folded_network, search_crops, template_crops
from benchmarks.runners import random_runner, tracked_targets
from benchmarks.timing import Figure, Options, seconds_in_turn
from service.config import ServeSettings
from service.worker.runner import Runner
from service.worker.work import Step, Work

VARIANTS = ("mixcvt_base", "mixvit_tiny")
SESSIONS = (64, 256)
MAX_BATCH = 64
ROUNDS = 10
GEMM_SIDE = 8192


def measure(options: Options) -> dict[str, Figure]:
    """Of every variant the frames a second by sessions, the time of a batch of one, and FLOP/s over those of a large product."""
    if not torch.cuda.is_available():
        return {}
    figures = {"gpu_gemm_tflops": gemm_tflops(torch.device("cuda"), options)}
    for variant in VARIANTS:
        runner = random_runner(variant, ServeSettings(device="cuda", slots=max(SESSIONS), max_batch=MAX_BATCH))
        figures |= measure_runner(variant, runner, SESSIONS, options)
        share = _tflop(variant) * figures[f"{variant}_gpu_fps_{max(SESSIONS)}"].value / figures["gpu_gemm_tflops"].value
        figures[f"{variant}_gpu_share_of_gemm"] = Figure(share, share, share, "ratio")
    return figures


def measure_runner(variant: str, runner: Runner, sessions: Sequence[int], options: Options) -> dict[str, Figure]:
    """`VARIANT_gpu_fps_N` for every number of sessions, and `VARIANT_gpu_ms_one`."""
    targets = tracked_targets(runner, max(sessions))
    figures = {
        f"{variant}_gpu_fps_{count}": Figure.of(
            [frames_per_second(runner, targets[:count]) for _ in range(options.repeats)], "frames/s"
        )
        for count in sessions
    }
    seconds = seconds_in_turn({"one": lambda: runner.run(targets[:1])}, options)["one"]
    return figures | {f"{variant}_gpu_ms_one": Figure.of([1000 * each for each in seconds], "ms")}


def frames_per_second(runner: Runner, targets: Sequence[Work]) -> float:
    """All targets in turn, in full batches, `ROUNDS` times."""
    batches = [targets[first : first + runner.max_batch] for first in range(0, len(targets), runner.max_batch)]
    under_way: deque[Step] = deque()
    started_at = time.perf_counter()
    for batch in batches * ROUNDS:
        under_way.append(runner.start(batch))
        if len(under_way) >= runner.steps_under_way:
            under_way.popleft().result()
    for step in under_way:
        step.result()
    return ROUNDS * len(targets) / (time.perf_counter() - started_at)


def gemm_tflops(device: torch.device, options: Options, side: int = GEMM_SIDE) -> Figure:
    """What the device reaches in one large product in half precision."""
    left, right = torch.randn(2, side, side, device=device, dtype=torch.float16)

    def product() -> float:
        return float((left @ right)[0, 0])

    seconds = seconds_in_turn({"gemm": product}, options)["gemm"]
    return Figure.of([2 * side**3 / each / 1e12 for each in seconds], "TFLOP/s")


@torch.inference_mode()
def _tflop(variant: str) -> float:
    """Of one frame."""
    model = folded_network(variant)
    return count_flops(model, search_crops(model), model.encode(template_crops(model))) / 1e12

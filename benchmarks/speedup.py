"""MixCvT base: our pass against the original's way at its best, one session, templates remembered.

The original runs eagerly, in a process of its own whose threads wait as torch's do by themselves, busily: it has an operation
to wait for every millisecond, and asleep (as `make bench` and the service have it) they take twice as long for it.
Where a CPU has instructions for 8-bit integers, the recorded network runs beside both, with the layers rounded that LIMIT allows, and
where it has bfloat16, in that: whether boxes stay where they are depends on weights and ranges, how fast it is does not. What the
service runs by itself, with an official file, is bfloat16 where the CPU has it and float32 elsewhere.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from multiprocessing import get_context

import torch
from torch import Tensor

from benchmarks import original
from benchmarks.networks import folded_network, in_reduced_precision, random_network, search_crops, template_crops
from benchmarks.recorded import rounded
from benchmarks.timing import CLOCKS, Figure, Options, in_turn, ratio, seconds_of
from model.mixformer import Network, Prediction
from model.quantised import TrackingPass
from service.cpu import usable_cores
from service.device import choose_network
from training.quantise import box_differences

VARIANT = "mixcvt_base"
LIMIT = 1.0  # pixels of the search crop
WAITING = "OMP_WAIT_POLICY"


def measure(options: Options) -> dict[str, Figure]:
    """How many times faster by itself and in each precision, our frames a second, and how far boxes in reduced precision are from float32's."""
    found = rounded(LIMIT)
    reduced = in_reduced_precision(found.model, found.choice.ranges, options.threads or usable_cores())
    distances = {
        f"mixcvt_{name}_distance": Figure.of(box_differences(found.model, network, found.others).tolist(), "px")
        for name, network in reduced.items()
    }
    return compare(options, reduced, found.others[0]) | distances


@torch.inference_mode()
def compare(options: Options, reduced: Mapping[str, Network], given: TrackingPass, variant: str = VARIANT) -> dict[str, Figure]:
    """The ratios, all sides in turn; the `reduced` networks are timed on `given`. Raises ValueError where float32 does not give the
    original's boxes."""
    ours = choose_network(folded_network(variant), precision="float32", threads=options.threads)
    search, memory = search_crops(ours), ours.encode(template_crops(ours))
    clock = CLOCKS[options.clock]
    with _process_of_its_own(options.threads or usable_cores()) as aside:
        expected, found = aside.submit(_boxes_of_original, variant).result(), ours.track(search, memory).boxes
        if not torch.allclose(found, expected, atol=1e-4):
            raise ValueError(f"boxes {found.tolist()} differ from the original's {expected.tolist()}")
        stopwatches: dict[str, Callable[[], float]] = {
            "original": lambda: aside.submit(_seconds_of_original, variant, options.clock).result(),
            "float32": partial(seconds_of, lambda: ours.track(search, memory), clock),
        }
        for name, network in reduced.items():
            stopwatches[name] = partial(seconds_of, partial(network.track, *given), clock)
        seconds = in_turn(stopwatches, options.repeats)
    by_itself = "bfloat16" if "bfloat16" in reduced else "float32"
    return {
        "mixcvt_speedup_over_original": ratio(seconds, "original", by_itself),
        "mixcvt_fps_one_session": Figure.of([1 / each for each in seconds[by_itself]], "frames/s"),
    } | {f"mixcvt_{name}_speedup_over_original": ratio(seconds, "original", name) for name in ("float32", *reduced)}


@contextmanager
def _process_of_its_own(threads: int) -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (threads,)) as process:
        waiting = os.environ.pop(WAITING, None)
        process.submit(os.getpid).result()  # started by now, and with this environment
        if waiting is not None:
            os.environ[WAITING] = waiting
        yield process


def _boxes_of_original(variant: str) -> Tensor:
    return _original(variant)().boxes


def _seconds_of_original(variant: str, clock: str) -> float:
    return seconds_of(_original(variant), CLOCKS[clock])


@cache
def _original(variant: str) -> Callable[[], Prediction]:
    """One frame in the original's way."""
    network = random_network(variant).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    search, kept = search_crops(network), original.remember(network, template_crops(network))
    return torch.inference_mode()(partial(original.track, network, search, kept))

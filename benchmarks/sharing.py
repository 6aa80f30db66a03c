"""What cameras that share a device cost each other: a slow client, one that sends 4K, and too few slots.

The neighbours are measured against a simulated device of fixed time per pass, so that nothing but the front and the queue can
make a difference: cameras that send their next frame when the last one is answered, rounds with and without the neighbour in turn, all cores shared with the client.
The slots are measured on MixViT-tiny on the CPU: half as many targets again as slots, against as many; by `--clock cpu` in frames a
second of the worker's CPU time, for a machine that others use too.
"""

import asyncio
import contextlib
import functools
import itertools
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import quantiles
from typing import NamedTuple

import psutil

from benchmarks import rounds
from benchmarks.load import FRAMES_AHEAD, Load, cpu_seconds, running_child, running_front
from benchmarks.timing import Figure, Options
from mixformer.tracking.v1 import tracking_pb2 as pb
from service.child import worker_module
from service.client import TrackingClient, to_frame
from service.commands.clip import Clip, made_up_clip
from service.commands.weights import DEFAULT_WEIGHTS
from service.config import SIMULATED_DEVICE, ServeSettings

CAMERAS = 4
SECONDS = 3.0
# A pass of 50 ms leaves the two cores of a small machine mostly idle.
PASS_MS = 50.0
SLOTS = 8
SETTINGS = ServeSettings(listen="127.0.0.1:0", metrics="127.0.0.1:0", log_level="error", max_under_way=10_000)

# One of 4K takes many seconds to make.
_clip = functools.cache(made_up_clip)

Neighbour = Callable[[str], contextlib.AbstractAsyncContextManager[None]]


def measure(options: Options) -> dict[str, Figure]:
    """`p99_beside_slow_client`, `p99_beside_4k_sender` (shares of the p99 without them) and `fps_share_at_1_5_targets_a_slot`."""
    return {**_neighbours(options), **_slots(options)}


def _neighbours(options: Options) -> dict[str, Figure]:
    clip = _clip(640, 360)
    settings = replace(SETTINGS, device=SIMULATED_DEVICE, simulated_batch_ms=PASS_MS)
    neighbours: dict[str, Neighbour] = {"alone": _nobody, "slow_client": _slow_client, "4k_sender": _4k_sender}
    p99: dict[str, list[float]] = {name: [] for name in neighbours}
    with _service(settings) as (address, front, _):
        for _ in range(options.repeats):
            for name, neighbour in neighbours.items():
                p99[name].append(rounds.run(_p99(Load(clip, address, front, frames_ahead=1), neighbour)))
    return {
        f"p99_beside_{name}": Figure.of(
            [beside / alone for beside, alone in zip(p99[name], p99["alone"], strict=True)], "ratio",
            {f"{each}_seconds": p99[each] for each in ("alone", name)},
        )
        for name in ("slow_client", "4k_sender")
    }  # fmt: skip


def _slots(options: Options) -> dict[str, Figure]:
    settings = replace(
        SETTINGS, device="cpu", weights=str(DEFAULT_WEIGHTS), threads=options.threads, slots=SLOTS, max_batch=SLOTS
    )
    rates: dict[int, list[float]] = {SLOTS: [], SLOTS * 3 // 2: []}
    with _service(settings) as running:
        for _ in range(options.repeats):
            for targets, found in rates.items():
                found.append(_rate(running, targets, options.clock))
    full, over = rates.values()
    raw = {"fps_all_in_slots": full, "fps_over": over}
    shares = [some / all_in for some, all_in in zip(over, full, strict=True)]
    return {"fps_share_at_1_5_targets_a_slot": Figure.of(shares, "ratio", raw)}


def _rate(running: "_Running", targets: int, clock: str) -> float:
    """Frames a second of so many cameras; by the CPU clock, of the worker's time."""
    load = Load(_clip(640, 360), running.address, running.front)
    before = cpu_seconds(running.worker)
    took = rounds.run(load.run(targets, SECONDS, least=2 * targets))
    return load.frames / (cpu_seconds(running.worker) - before) if clock == "cpu" else took.rate


async def _p99(load: Load, neighbour: Neighbour) -> float:
    """Seconds from a frame's sending to its result, of cameras beside this neighbour."""
    async with neighbour(load.address):
        await load.run(CAMERAS, SECONDS)
    return quantiles(load.latencies, n=100, method="inclusive")[98]


@asynccontextmanager
async def _nobody(address: str) -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def _slow_client(address: str) -> AsyncIterator[None]:
    """Takes one result a second, with as many frames under way as the service takes in."""
    async with _camera(address, _clip(640, 360), pause_seconds=1.0):
        yield


@asynccontextmanager
async def _4k_sender(address: str) -> AsyncIterator[None]:
    """Sends 4K frames as fast as they are answered."""
    async with _camera(address, _clip(3840, 2160), pause_seconds=0.0):
        yield


@asynccontextmanager
async def _camera(address: str, clip: Clip, pause_seconds: float) -> AsyncIterator[None]:
    async with TrackingClient(address) as client:
        task = asyncio.create_task(_send(client, clip, pause_seconds))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):  # what ended it before is an error: nobody was beside the others
                await task


async def _send(client: TrackingClient, clip: Clip, pause_seconds: float) -> None:
    """Until it is cancelled."""
    stream = await client.open_stream(pb.StreamConfig())
    start = [pb.TargetCommand(initialize=pb.BoundingBox(**clip.box._asdict()))]
    with contextlib.closing(stream):
        for number in itertools.count():
            request = pb.TrackStreamRequest(frame=to_frame(number, clip.frame(number)), targets=start if number == 0 else [])
            await stream.send(request)
            if number >= FRAMES_AHEAD:
                await asyncio.sleep(pause_seconds)
                await stream.receive()


class _Running(NamedTuple):
    address: str
    front: psutil.Process
    worker: psutil.Process


@contextmanager
def _service(settings: ServeSettings) -> Iterator[_Running]:
    with tempfile.TemporaryDirectory() as folder:
        settings = replace(settings, worker_socket=str(Path(folder) / "worker.sock"))
        with running_child(worker_module(settings.device), settings) as worker, running_front(settings) as (address, front):
            yield _Running(address, front, psutil.Process(worker.pid))

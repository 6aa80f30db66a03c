"""Thirty-two real streams over a real (small) network, and what becomes of them when its worker dies, hangs or loses its device."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from cameras import PROCESSED, Tally, camera, figure, initialize
from frail_worker import SMALL
from grpc import aio
from processes import Served, served

from mixformer.tracking.v1 import tracking_pb2 as pb
from model.checkpoint import save_model
from model.config import UpdateRule
from model.mixformer import MixFormer

STREAMS, FRAMES = 32, 6
# The parent, with another worker than the device's.
PROGRAM = (
    "-c",
    "import sys; from service import cli, server; server.worker_module = lambda _: 'frail_worker'; sys.exit(cli.main())",
    "serve",
)
FLAGS = ("--precision", "float32", "--device", "cpu", "--worker-silence-seconds", "1", "--max-under-way", "1000")

COUNTED = ("worker_restarts_total", "worker_outage_seconds_count")

Box = tuple[float, float, float, float]
Clip = list[list[Box]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lost")


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Served]:
    torch.manual_seed(0)
    # Memories change on the way. The latest frame always is the best candidate: near ties would be decided by rounding.
    rule = UpdateRule(update_interval=3, candidate_threshold=0.0, score_decay=0.5)
    save_model(folder / "small.safetensors", MixFormer(SMALL).eval(), rule)
    flags = (*FLAGS, "--weights", str(folder / "small.safetensors"), "--run-dir", str(folder))
    with served(folder, *flags, program=PROGRAM) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def undisturbed(running: Served) -> Clip:
    return await clip(running)


async def clip(running: Served, disturb: Callable[[], None] | None = None) -> Clip:
    """The boxes of every stream over the same frames; in the middle of it, something is done to the worker."""
    tally = Tally()
    async with aio.insecure_channel(running.address) as channel:
        streams = [asyncio.create_task(film(channel, number, tally)) for number in range(STREAMS)]
        while disturb and tally.answered < STREAMS * FRAMES // 2:
            await asyncio.sleep(0.005)
        if disturb:
            disturb()
        boxes = await asyncio.gather(*streams)
    assert tally.outcomes == {"processed": STREAMS * FRAMES}
    return boxes


async def film(channel: aio.Channel, number: int, tally: Tally) -> list[Box]:
    """One stream, from a box of its own."""
    box = pb.BoundingBox(x=20 + 8 * number, y=30 + 5 * (number % 20), width=40, height=30)
    async with camera(channel, tally, pb.SessionOptions()) as each:
        results = [await each.track(*([initialize("", box)] if not frame else [])) for frame in range(FRAMES)]
        await each.end()
    assert [(result.frame_number, result.outcome) for result in results] == [(frame, PROCESSED) for frame in range(FRAMES)]
    boxes = [result.targets[0].box for result in results]
    return [(box.x, box.y, box.width, box.height) for box in boxes]


def largest_difference(one: Clip, other: Clip) -> float:
    """In pixels, over all streams, frames and sides."""
    return (torch.tensor(one) - torch.tensor(other)).abs().max().item()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("blow", ["SIGKILL", "SIGSTOP", "lost device"])
async def test_every_frame_has_the_result_that_it_would_have_had(
    blow: str, running: Served, folder: Path, undisturbed: Clip
) -> None:
    def strike() -> None:
        if blow == "lost device":
            (folder / "lost").touch()
        else:
            running.worker().send_signal(signal.Signals[blow])

    restarts, outages = [await asyncio.to_thread(figure, running.metrics, name) for name in COUNTED]
    disturbed = await clip(running, strike)
    assert largest_difference(disturbed, undisturbed) < 0.05
    after = [await asyncio.to_thread(figure, running.metrics, name) for name in COUNTED]
    assert after == [restarts + 1, outages + 1]


@pytest.mark.asyncio(loop_scope="module")
async def test_the_streams_differ_so_that_a_mix_up_would_show(undisturbed: Clip) -> None:
    last = {stream[-1] for stream in undisturbed}
    assert len(last) == STREAMS


@pytest.mark.asyncio(loop_scope="module")
async def test_a_device_that_has_no_room_for_the_batch_gives_the_same_boxes_in_smaller_ones(
    running: Served, folder: Path, undisturbed: Clip
) -> None:
    def strike() -> None:
        (folder / "full").write_text("3")

    disturbed = await clip(running, strike)
    assert largest_difference(disturbed, undisturbed) < 0.05
    assert "no room for" in running.log.read_text()

"""Sessions that come, are cancelled, expire and push each other's memories out of few slots: nobody sees anything of another's.

On the simulated device, whose boxes depend on nothing but the search crop and the templates in the slot, to the bit.
"""

import asyncio
import random
from collections.abc import Iterator

import pytest
from cameras import Tally, camera, figure, initialize
from google.protobuf.duration_pb2 import Duration
from grpc import aio
from processes import Served, served

from mixformer.tracking.v1 import tracking_pb2 as pb

SESSIONS, FRAMES, SLOTS = 12, 12, 6
FLAGS = (
    "--device", "simulated", "--simulated-batch-ms", "1", "--simulated-item-ms", "0", "--slots", str(SLOTS), "--max-batch", "4",
    "--max-under-way", "10000",
)  # fmt: skip
# Memories change on the way.
OPTIONS = pb.SessionOptions(update_interval_frames=3, idle_timeout=Duration(seconds=10))
FORGOTTEN = pb.SessionOptions(update_interval_frames=2, idle_timeout=Duration(nanos=300_000_000))

Seen = list[tuple[float, float, float, float, float]]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("mixing"), *FLAGS) as started:
        yield started


async def watched(channel: aio.Channel, number: int) -> Seen:
    """One session from a box of its own: its boxes and scores."""
    box = pb.BoundingBox(x=20 + 10 * number, y=30 + 7 * number, width=40, height=30)
    async with camera(channel, Tally(), OPTIONS) as each:
        results = [await each.track(*([] if frame else [initialize("", box)])) for frame in range(FRAMES)]
        await each.end()
    targets = [result.targets[0] for result in results]
    return [(each.box.x, each.box.y, each.box.width, each.box.height, each.score) for each in targets]


async def disturb(channel: aio.Channel, chance: random.Random) -> None:
    """Sessions that are cancelled with frames under way, that remove their targets, or that are left to expire, one after another."""
    while True:
        box = pb.BoundingBox(x=chance.uniform(0, 250), y=chance.uniform(0, 180), width=50, height=40)
        async with camera(channel, Tally(), FORGOTTEN) as each:
            await each.track(initialize("", box))
            for _ in range(chance.randint(0, 6)):
                await each.track()
            for _ in range(chance.randint(0, 2)):
                await each.send()
            if chance.random() < 0.3:
                await each.send(pb.TargetCommand(remove=True))


async def test_each_session_sees_what_it_sees_alone(running: Served) -> None:
    async with aio.insecure_channel(running.address) as channel:
        alone = [await watched(channel, number) for number in range(SESSIONS)]
        before = await asyncio.to_thread(figure, running.metrics, "evictions_total")
        rivals = [asyncio.create_task(disturb(channel, random.Random(seed))) for seed in range(12)]
        together = await asyncio.gather(*(watched(channel, number) for number in (*range(SESSIONS), *range(SESSIONS))))
        failed = [rival.exception() for rival in rivals if rival.done()]
        for rival in rivals:
            rival.cancel()
        await asyncio.gather(*rivals, return_exceptions=True)
        evicted = await asyncio.to_thread(figure, running.metrics, "evictions_total") - before
    assert failed == []
    assert together == [*alone, *alone], "twice, as two sessions with equal templates share a slot"
    assert len({tuple(seen) for seen in alone}) == SESSIONS, "or a mix-up would not show"
    assert evicted > SESSIONS

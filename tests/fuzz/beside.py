"""One session that means well, tracked by a whole service while others are thrown at it: its boxes beside those that it has alone."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterable
from random import Random
from typing import NamedTuple

from cameras import PROCESSED, Camera, Tally, camera, initialize
from google.protobuf.duration_pb2 import Duration
from grpc import aio
from pictures import encoded

from fuzz.calls import calls, check_result
from fuzz.images import file
from mixformer.tracking.v1 import tracking_pb2 as pb
from model.geometry import Box
from service.commands.synthetic import synthetic_clip

CLIP = list(synthetic_clip(240, 180, 6))
BOX = pb.BoundingBox(**CLIP[0][1]._asdict())
PICTURES = [encoded(image) for image, _ in CLIP]
# Its memory changes on the way.
OPTIONS = pb.SessionOptions(update_interval_frames=3)
FORGOTTEN = pb.SessionOptions(update_interval_frames=2, idle_timeout=Duration(seconds=1))

RIVALS, FRAMES, CALLS_A_ROUND = 3, 20, 10


class Beside(NamedTuple):
    """What became of the hostile calls and frames; in how many batches with others the session's frames were; and how far its
    boxes were at most from where they are alone, in pixels.
    """

    outcomes: Counter[str]
    shared: int
    distance: float


async def beside(address: str, seed: int, rounds: int, least_shared: int = 0) -> Beside:
    """So many rounds of the session, and more until it was in so many batches with others, while hostile sessions send frames that
    are tracked and hostile calls come from the seed on.
    """
    outcomes: Counter[str] = Counter()
    async with aio.insecure_channel(address) as channel, camera(channel, Tally(), OPTIONS) as each:
        alone = await film(each)
        hostile = [asyncio.create_task(rival(channel, Random(seed + number), outcomes)) for number in range(RIVALS)]
        seen: list[pb.FrameResult] = []
        for number in itertools.count():
            if number >= rounds and shared(seen) >= least_shared:
                break
            first = seed + CALLS_A_ROUND * number
            calling = asyncio.create_task(asyncio.to_thread(calls, address, range(first, first + CALLS_A_ROUND)))
            seen += await film(each)
            outcomes += await calling
        for task in hostile:
            task.cancel()
        ended = await asyncio.gather(*hostile, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended
    return Beside(outcomes, shared(seen), max(map(distance, seen, itertools.cycle(alone))))


def shared(seen: Iterable[pb.FrameResult]) -> int:
    """Frames that were in a batch with others."""
    return sum(result.timing.batch_size > 1 for result in seen)


async def rival(channel: aio.Channel, chance: Random, outcomes: Counter[str]) -> None:
    """One session after another: between good frames, which share the other's batches, pictures of any kind and boxes anywhere."""
    while True:
        async with camera(channel, Tally(), FORGOTTEN) as each:
            await each.track(initialize("", BOX), picture=PICTURES[0])
            for number in range(FRAMES):
                box = pb.BoundingBox(
                    **{name: chance.choice((10.0, 30.0, chance.uniform(-100, 100), 1e30)) for name in Box._fields}
                )
                commands = [initialize("", box)] if chance.random() < 0.3 else []
                result = await each.track(*commands, picture=PICTURES[number % len(PICTURES)] if number % 2 else file(chance))
                check_result(result)
                outcomes[result.error.reason or "OK"] += 1


async def film(each: Camera) -> list[pb.FrameResult]:
    """The clip, tracked from its first picture to its last; its target starts again on the first."""
    results = [
        await each.track(*([] if number else [initialize("", BOX)]), picture=picture) for number, picture in enumerate(PICTURES)
    ]
    assert {result.outcome for result in results} == {PROCESSED}, results
    return results


def distance(one: pb.FrameResult, other: pb.FrameResult) -> float:
    """The most that a number of the target's box differs."""
    mine, its = (Box(box.x, box.y, box.width, box.height) for box in (one.targets[0].box, other.targets[0].box))
    return max(abs(a - b) for a, b in zip(mine, its, strict=True))

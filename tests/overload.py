"""Three times the load that the device can carry, on the simulated device: `make overload`. Exit status 1 where a promise is broken.

The device takes a fixed time per pass, so its capacity is known: a full batch per pass. Everything else is the real service.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from cameras import Refused, Tally, camera, initialize
from google.protobuf.duration_pb2 import Duration
from grpc import aio
from processes import served

from mixformer.tracking.v1 import tracking_pb2 as pb

# A camera sends every 2.5 passes. At every second pass, one that just misses a pass has its next frame waiting when the first is answered,
# and from then on always: its own limit, and not the service's.
PASS_MS, MAX_BATCH, RATE = 100, 20, 4.0
CAPACITY = MAX_BATCH / (PASS_MS / 1000)
STREAMS = round(CAPACITY / RATE)
SECONDS = 15.0
ROOM_AGAIN_SECONDS = 1.0
FLAGS = (
    "--device", "simulated", "--simulated-batch-ms", str(PASS_MS), "--simulated-item-ms", "0", "--max-batch", str(MAX_BATCH),
    "--log-level", "info",
)  # fmt: skip


class Load(NamedTuple):
    """What came of so many cameras at once: frames of those that were accepted, and how many never were."""

    tally: Tally
    cameras: int
    refused: int

    def row(self, name: str) -> str:
        """A line of the report."""
        accepted = self.cameras - self.refused
        p50, p99 = (1000 * self.tally.quantile(share) for share in (0.5, 0.99))
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.tally.outcomes.items()))
        return f"{name:<30} {accepted:>4} of {self.cameras:<4} {p50:>7.0f} {p99:>7.0f}   {outcomes}"


def options(policy: pb.OverloadPolicy.ValueType) -> pb.SessionOptions:
    return pb.SessionOptions(overload_policy=policy, idle_timeout=Duration(seconds=10))


async def load(address: str, cameras: int, policy: pb.OverloadPolicy.ValueType, rate: float, surge: float = 1.0) -> Load:
    """So many cameras at once, each with a connection of its own. Once in, they send `surge` times as fast as they were let in for."""
    tally, beginning = Tally(), Tally()
    ends_at = time.perf_counter() + SECONDS

    async def run() -> bool:
        own = aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
        async with own as channel, camera(channel, beginning, options(policy)) as each:
            try:
                await each.begin(SECONDS / 3)
            except Refused:
                return False
            if surge > 1:
                await each.film(rate, SECONDS / 3)
            each.tally = tally
            await each.film(rate * surge, ends_at - time.perf_counter())
            return True

    accepted = await asyncio.gather(*(run() for _ in range(cameras)))
    return Load(tally, cameras, accepted.count(False))


async def seconds_until_room(address: str) -> float:
    """How long after the load has gone a new camera gets in."""
    began_at = time.perf_counter()
    late = options(pb.OVERLOAD_POLICY_BLOCK)
    async with aio.insecure_channel(address) as channel, camera(channel, Tally(), late) as each:
        while (await each.track(initialize())).outcome != pb.FRAME_OUTCOME_PROCESSED:
            await asyncio.sleep(0.02)
    return time.perf_counter() - began_at


async def measure(address: str) -> int:
    """All loads in turn, printed. The exit status."""
    block, live = pb.OVERLOAD_POLICY_BLOCK, pb.OVERLOAD_POLICY_DROP_OLDEST
    print(f"capacity {CAPACITY:.0f} frames/s, {STREAMS} cameras at {RATE:g} frames/s; a pass takes {PASS_MS} ms")
    print(f"{'load':<30} {'accepted':<12} {'p50 ms':>7} {'p99 ms':>7}   frames of accepted cameras")
    print((await load(address, 1, block, RATE)).row("one camera"), flush=True)
    light = await load(address, STREAMS // 4, block, RATE)
    print(light.row("a quarter of the capacity"), flush=True)
    promises: dict[str, bool] = {}
    for name, policy in (("BLOCK", block), ("DROP_OLDEST", live)):
        heavy = await load(address, 3 * STREAMS, policy, RATE)
        recovery = await seconds_until_room(address)
        print(heavy.row(f"three times, {name}"), f"  room again after {recovery:.2f} s", flush=True)
        promises |= {
            f"{name}: p99 within twice that at a quarter": heavy.tally.quantile(0.99) <= 2 * light.tally.quantile(0.99),
            f"{name}: the rest is refused": heavy.refused > 0,
            f"{name}: every frame has its result": heavy.tally.sent == heavy.tally.answered,
            f"{name}: room again within {ROOM_AGAIN_SECONDS:g} s": recovery <= ROOM_AGAIN_SECONDS,
        }
    surge = await load(address, STREAMS // 2, live, RATE, surge=6.0)
    print(surge.row("half, then six times as fast"), flush=True)
    promises["surge: frames are dropped, none is refused"] = surge.tally.answered == surge.tally.sent and not any(
        "rejected" in outcome for outcome in surge.tally.outcomes
    )
    for name, is_kept in promises.items():
        print(f"{'kept' if is_kept else 'BROKEN':<7} {name}")
    return 0 if all(promises.values()) else 1


def main() -> int:
    """The service on a simulated device, loaded."""
    with tempfile.TemporaryDirectory() as folder, served(Path(folder), *FLAGS) as running:
        return asyncio.run(measure(running.address))


if __name__ == "__main__":
    sys.exit(main())

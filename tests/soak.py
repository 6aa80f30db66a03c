"""Hours of sessions that come, track, break things and go, at 80 % of the capacity: `make soak MINUTES=...`.

Exit status 1 where memory grows, a frame has no result or an error was not provoked. What each client does is drawn at random; the
seed is printed. Capacity is measured first, so that any device will do.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import psutil
from cameras import Tally, camera, counted, figure
from grpc import aio
from processes import Served, served
from soak_clients import BLOCK, PATIENCE_SECONDS, Client, Pace

CLIENTS = 12
SHARE = 0.8
CAPACITY_SECONDS = 15.0
SAMPLE_SECONDS = 5.0
MAX_GROWTH = 0.03
SETTLING_BYTES = 4 * 2**20  # a heap's, however small the process: a leak is more as soon as the run is long


class Sample(NamedTuple):
    """The resident memory of one process, and what else it holds."""

    resident: int
    threads: int
    files: int


def sample(process: psutil.Process) -> Sample:
    return Sample(process.memory_info().rss, process.num_threads(), process.num_fds())


async def watch(running: Served, until: float) -> dict[str, list[Sample]]:
    """Both processes, looked at again and again."""
    seen: dict[str, list[Sample]] = {"front": [], "worker": []}
    while time.perf_counter() < until:
        await asyncio.sleep(SAMPLE_SECONDS)
        seen["front"].append(sample(running.front()))
        seen["worker"].append(sample(running.worker()))
    return seen


def quarters(samples: list[Sample]) -> tuple[float, float]:
    """The mean resident memory of the first quarter and of the last, in bytes."""
    quarter = max(1, len(samples) // 4)
    return mean(each.resident for each in samples[:quarter]), mean(each.resident for each in samples[-quarter:])


def is_steady(samples: list[Sample]) -> bool:
    """Whether the last quarter holds no more memory than the first, but for what a heap takes to settle."""
    first, last = quarters(samples)
    return last - first <= max(MAX_GROWTH * first, SETTLING_BYTES)


async def capacity(address: str) -> float:
    """Frames a second of as many cameras as there are clients, each sending when it has its result."""
    tally = Tally()
    until = time.perf_counter() + CAPACITY_SECONDS

    async def run() -> None:
        async with aio.insecure_channel(address) as channel, camera(channel, tally, BLOCK) as each:
            await each.begin(PATIENCE_SECONDS)
            while time.perf_counter() < until:
                await each.track()
            await each.end()

    await asyncio.gather(*(run() for _ in range(CLIENTS)))
    return tally.answered / CAPACITY_SECONDS


async def nothing_left(metrics: str) -> bool:
    """Whether, soon after the last client, no session, stream or memory is left."""
    for _ in range(30):
        await asyncio.sleep(1.0)
        left = [
            await asyncio.to_thread(figure, metrics, name) for name in ("sessions_active", "streams_active", "slots_in_use")
        ]
        if not any(left):
            return True
    print("left:", left)
    return False


async def soak(running: Served, minutes: float, seed: int) -> int:
    """The run, printed. The exit status."""
    frames = await capacity(running.address)
    before = await asyncio.to_thread(counted, running.metrics)
    print(f"seed {seed}; capacity {frames:.1f} frames/s, {CLIENTS} clients at {SHARE * frames:.1f} together", flush=True)
    pace, tally = Pace(SHARE * frames), Tally()
    clients = [Client(running.address, pace, random.Random(f"{seed} {number}"), tally) for number in range(CLIENTS)]
    until = time.perf_counter() + 60 * minutes
    watching = asyncio.create_task(watch(running, until))
    await asyncio.gather(*(client.run(until) for client in clients))
    seen = await watching
    is_clean = await nothing_left(running.metrics)
    after = await asyncio.to_thread(counted, running.metrics)
    answered = after.answered - before.answered
    abandoned = sum(client.abandoned for client in clients)
    done: Counter[str] = sum((client.done for client in clients), Counter())
    unprovoked = [error for client in clients for error in client.unprovoked]
    print(f"clients: {dict(sorted(done.items()))}")
    print(
        f"frames: {tally.sent} sent, {tally.answered} answered, {abandoned} abandoned by their clients: {dict(sorted(tally.outcomes.items()))}"
    )
    print(f"the service counts {answered:.0f}, at most {tally.sent} and at least {tally.answered}; of all its frames: {after}")
    print(f"latency: p50 {1000 * tally.quantile(0.5):.0f} ms, p99 {1000 * tally.quantile(0.99):.0f} ms")
    warm = {name: samples[len(samples) // 5 :] for name, samples in seen.items()}
    for name, samples in warm.items():
        first, last = samples[0], samples[-1]
        early, late = quarters(samples)
        print(
            f"{name}: {early / 2**20:.1f} to {late / 2**20:.1f} MiB resident, {100 * (late / early - 1):+.2f} %; "
            f"threads {first.threads} to {last.threads}, descriptors {first.files} to {last.files}"
        )
    print(f"errors that were not provoked: {len(unprovoked)}", *unprovoked[:10], sep="\n  ")
    is_flat = all(is_steady(samples) for samples in warm.values())
    is_balanced = tally.sent == tally.answered + abandoned and tally.answered <= answered <= tally.sent and after.is_balanced
    print(f"memory flat: {is_flat}, counters balance: {is_balanced}, nothing left: {is_clean}")
    return 0 if is_flat and is_balanced and is_clean and not unprovoked else 1


def main() -> int:
    """The service as a user starts it, soaked. Arguments that are not ours are the service's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    ours, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder, served(Path(folder), "--log-level", "info", *flags) as running:
        status = asyncio.run(soak(running, ours.minutes, ours.seed))
        complaints = [line for line in running.log.read_text().splitlines() if " INFO " not in line]
        print("what the service logged beside its lifecycle:", *complaints[:60], sep="\n  ")
        return status or any("Traceback" in line for line in complaints)


if __name__ == "__main__":
    sys.exit(main())

"""`make envoy-test`: three trackers behind the real Envoy with the real Redis under load; one is killed, one added, one drained.

Sixty cameras stream and eight send single frames, all as one program's client does it (service/client_session.py). The device is a
simulated one of fixed time a batch: what is shown is where sessions and frames go, not how fast the network is.
"""

import asyncio
import signal
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import grpc
from cluster import ENVOY, Tracker, access, envoy, redis, token_keys, tracker, wait_until_healthy
from grpc import aio
from tqdm import tqdm

from mixformer.tracking.v1 import tracking_pb2 as pb
from mixformer.tracking.v1.tracking_pb2_grpc import TrackingServiceStub
from service.client import SESSION_METADATA, TrackingClient, to_frame
from service.commands.clip import Clip, made_up_clip
from service.commands.loadtest import Camera
from service.commands.pace import spread
from service.commands.tally import LoadReport, Tally

OUTPUT = Path("build/envoy-test")
HOSTS = ("127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5")
FLAGS = ("--device", "simulated", "--simulated-batch-ms", "20", "--max-stream-seconds", "12", "--log-level", "warning")
STREAMS, RATE, SECONDS = 60, 1.0, 75.0
UNARY_SESSIONS = 8
QUIET_SECONDS, MOVING_SECONDS = 12.0, 13.0
PATIENCE_SECONDS = 30.0
PROCESSED = "mixformer_frames_total=processed"


class Moment(NamedTuple):
    """Open streams and frames processed so far, by tracker."""

    name: str
    streams: tuple[int, ...]
    frames: tuple[int, ...]


def run() -> int:
    """The tables of what became of the frames. The exit code."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        flags = (*FLAGS, "--store", stack.enter_context(redis()).url, "--token-keys", str(token_keys(OUTPUT)))
        stack.enter_context(envoy(HOSTS, OUTPUT))
        trackers = [stack.enter_context(tracker(host, OUTPUT, *flags)) for host in HOSTS[:3]]
        wait_until_healthy(3)
        report, moments, unary, strays = asyncio.run(load(trackers, stack, flags))
    print(table(moments))
    print(report.to_table())
    print("\n".join(f"unary {what:20} {count:5}" for what, count in sorted(unary.items())))
    print(f"unary sessions on more than one tracker before the kill: {strays}")
    is_whole = report.processed == report.due and not report.stream_errors and not report.sessions_begun_anew
    return 0 if is_whole and unary["processed"] == unary["due"] and not strays and moments[-1].streams[3] else 1


async def load(
    trackers: list[Tracker], stack: ExitStack, flags: tuple[str, ...]
) -> tuple[LoadReport, list[Moment], Counter[str], int]:
    """All cameras at once, and what is done to the trackers meanwhile."""
    clip, tally, unary = made_up_clip(320, 240), Tally(), Counter[str]()
    schedules = spread(STREAMS, RATE, SECONDS, time.perf_counter() + 3.0)
    names = [f"unary-{number}" for number in range(UNARY_SESSIONS)]
    async with asyncio.TaskGroup() as tasks:
        for schedule in schedules:
            camera = Camera(clip, schedule, tally, tqdm(disable=True), PATIENCE_SECONDS)
            tasks.create_task(camera.run(TrackingClient(ENVOY, access()), pb.SessionOptions()))
        for name in names:
            tasks.create_task(send_singly(name, clip, unary))
        await asyncio.sleep(QUIET_SECONDS)
        strays = await sessions_on_several(trackers, names)
        moments = [await moment("three trackers", trackers)]
        trackers[2].kill()
        await asyncio.sleep(MOVING_SECONDS)
        moments.append(await moment("the third is killed", trackers))
        trackers.append(stack.enter_context(tracker(HOSTS[3], OUTPUT, *flags)))
        await asyncio.to_thread(trackers[3].wait)
        await asyncio.sleep(MOVING_SECONDS)
        moments.append(await moment("a fourth is added", trackers))
        trackers[0].process.send_signal(signal.SIGTERM)
        await asyncio.sleep(MOVING_SECONDS)
        moments.append(await moment("the first is drained", trackers))
    return tally.report(RATE, schedules), moments, unary, strays


async def send_singly(session_id: str, clip: Clip, counted: Counter[str]) -> None:
    """One session's frames in calls of their own, each until it is answered; it goes on by its id alone."""
    start = [pb.TargetCommand(ensure=pb.BoundingBox(**clip.box._asdict()))]
    given, metadata = access(), ((SESSION_METADATA, session_id),)
    async with given.channel(ENVOY) as channel:
        stub = TrackingServiceStub(channel)
        for number in range(int(SECONDS * RATE)):
            request = pb.TrackRequest(
                session_id=session_id, frame=to_frame(number, clip.frame(number)), targets=[] if number else start
            )
            counted["due"] += 1
            deadline = time.monotonic() + PATIENCE_SECONDS
            while time.monotonic() < deadline:
                try:
                    result = (await stub.Track(request, metadata=metadata, timeout=10.0)).result
                except aio.AioRpcError as error:
                    counted[f"again, {error.code().name}"] += 1
                    if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                        return
                    await asyncio.sleep(0.2)
                else:
                    counted[pb.FrameOutcome.Name(result.outcome).removeprefix("FRAME_OUTCOME_").lower()] += 1
                    break
            await asyncio.sleep(1 / RATE)


async def sessions_on_several(trackers: list[Tracker], names: list[str]) -> int:
    """How many of these sessions more than one tracker has, asked behind Envoy's back."""
    found: Counter[str] = Counter()
    for each in trackers:
        async with aio.insecure_channel(each.server) as channel:
            listed = await TrackingServiceStub(channel).ListSessions(pb.ListSessionsRequest(page_size=1000))
        found.update(session.session_id for session in listed.sessions)
    assert all(found[name] for name in names), found
    return sum(found[name] > 1 for name in names)


async def moment(name: str, trackers: list[Tracker]) -> Moment:
    """How it stands now."""

    def figures(sample: str) -> tuple[int, ...]:
        return tuple(int(each.figure(sample)) for each in trackers)

    streams = await asyncio.to_thread(figures, "mixformer_streams_active")
    return Moment(name, streams, await asyncio.to_thread(figures, PROCESSED))


def table(moments: list[Moment]) -> str:
    """Streams, and frames processed so far, of every tracker at every moment."""
    lines = [f"{'streams/frames':22}" + "".join(f"{f'tracker {number}':>14}" for number in range(1, len(HOSTS) + 1))]
    for each in moments:
        cells = [f"{streams}/{frames}" for streams, frames in zip(each.streams, each.frames, strict=True)]
        lines.append(f"{each.name:22}" + "".join(f"{cell:>14}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run())

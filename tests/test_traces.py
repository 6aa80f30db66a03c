"""Traces of the real service, as a real OTLP receiver gets them."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc import aio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from pictures import encoded, scene
from processes import served

from mixformer.tracking.v1 import tracking_pb2 as pb
from mixformer.tracking.v1.tracking_pb2_grpc import TrackingServiceStub
from service.config import SettingsError
from service.front.telemetry.traces import Traces, TracesUnavailable
from service.sources import load_settings

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = (("traceparent", f"00-{TRACE}-{PARENT}-{flags}") for flags in ("01", "00"))
START = pb.TargetCommand(initialize=pb.BoundingBox(x=100, y=80, width=40, height=40))
GOOD = encoded(scene())
PATIENCE_SECONDS = 30


class Receiver:
    """What an OpenTelemetry collector is to the service."""

    def __init__(self) -> None:
        self.resources: list[dict[str, str]] = []
        self._spans: list[Span] = []
        self._came = threading.Condition()

    def export(self, request: ExportTraceServiceRequest, context: grpc.ServicerContext) -> ExportTraceServiceResponse:
        """Keep what comes."""
        with self._came:
            for group in request.resource_spans:
                self.resources.append({each.key: each.value.string_value for each in group.resource.attributes})
                self._spans += [span for scope in group.scope_spans for span in scope.spans]
            self._came.notify_all()
        return ExportTraceServiceResponse()

    def spans(self, count: int) -> list[Span]:
        """All spans, once there are so many."""
        with self._came:
            assert self._came.wait_for(lambda: len(self._spans) >= count, PATIENCE_SECONDS), self._spans
            return list(self._spans)


@contextmanager
def receiving() -> Iterator[tuple[str, Receiver]]:
    """A receiver on a free port, and its URL."""
    receiver, server = Receiver(), grpc.server(ThreadPoolExecutor(1))
    handler = grpc.unary_unary_rpc_method_handler(
        receiver.export, ExportTraceServiceRequest.FromString, ExportTraceServiceResponse.SerializeToString
    )
    name = "opentelemetry.proto.collector.trace.v1.TraceService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Export": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}", receiver
    finally:
        server.stop(None).wait()


async def track(address: str, metadata: tuple[tuple[str, str], ...], *frames: bytes) -> list[pb.FrameResult]:
    """The results of one stream that starts a target on its first frame."""
    async with aio.insecure_channel(address) as channel:
        call = TrackingServiceStub(channel).TrackStream(metadata=metadata)
        await call.write(pb.TrackStreamRequest(config=pb.StreamConfig()))
        for number, frame in enumerate(frames):
            targets = [START] if number == 0 else []
            await call.write(pb.TrackStreamRequest(frame=pb.Frame(frame_number=number, encoded=frame), targets=targets))
        await call.done_writing()
        return [event.result async for event in call if event.HasField("result")]


def seconds(span: Span) -> tuple[float, float]:
    return span.start_time_unix_nano / 1e9, span.end_time_unix_nano / 1e9


async def test_a_frame_is_traced_from_receive_to_reply_within_its_clients_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    flags = ("--device", "simulated", "--simulated-batch-ms", "20", "--traces")
    with receiving() as (url, receiver), served(tmp_path, *flags, url) as running:
        began_at = time.time()
        assert len(await track(running.address, (UNSAMPLED,), GOOD, GOOD)) == 2
        results = await track(running.address, (SAMPLED,), GOOD, GOOD, b"no picture")
        # Two whole pictures: the first has no queue and no backbone, the broken one has a reply alone.
        spans = await asyncio.to_thread(receiver.spans, 7)
        ended_at = time.time()
        running.parent.terminate()
        assert await asyncio.to_thread(running.parent.wait, PATIENCE_SECONDS) == 0
    assert len(spans) == 7
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    frames = {attribute.value.int_value: span for span in spans if span.name == "frame" for attribute in span.attributes[:1]}
    assert {number: span.parent_span_id.hex() for number, span in frames.items()} == dict.fromkeys(range(3), PARENT)
    assert [span.status.code for span in frames.values()] == [0, 0, 2]
    parts = {span.name: span for span in spans if span.parent_span_id == frames[1].span_id}
    assert sorted(parts) == ["backbone", "decode", "queue"]
    times = [seconds(frames[1]), seconds(parts["decode"]), seconds(parts["queue"]), seconds(parts["backbone"])]
    (frame_began, frame_ended), (_, decoded), (asked, taken), (on_device, done) = times
    assert began_at < frame_began < decoded < asked <= taken == on_device < done <= frame_ended < ended_at
    assert done - on_device == pytest.approx(results[1].timing.backbone.ToTimedelta().total_seconds(), abs=1e-6)
    assert receiver.resources[0]["service.name"] == "mixformer"


async def test_a_receiver_that_is_not_there_holds_up_neither_frames_nor_the_end(tmp_path: Path) -> None:
    with receiving() as (gone, _):
        pass
    with served(tmp_path, "--device", "simulated", "--traces", gone) as running:
        results = await track(running.address, (SAMPLED,), GOOD, GOOD, GOOD)
        assert [each.outcome for each in results] == [pb.FRAME_OUTCOME_PROCESSED] * 3
        running.parent.terminate()
        assert await asyncio.to_thread(running.parent.wait, PATIENCE_SECONDS) == 0


def test_a_receiver_is_a_url() -> None:
    with pytest.raises(SettingsError, match="traces 'collector:4317' is no URL"):
        load_settings({"traces": "collector:4317"}, {})


def test_without_the_extra_the_start_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(TracesUnavailable, match=r"pip install 'mixformer-service\[traces\]'"):
        Traces("http://127.0.0.1:4317", "1.2.3")


def test_without_traces_nothing_that_sends_spans_is_imported() -> None:
    # The client of the store imports the API and parts of the SDK where they are installed.
    look = "import sys, service.front.frontend; print([n for n in sys.modules if n.startswith('opentelemetry.exporter')])"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"

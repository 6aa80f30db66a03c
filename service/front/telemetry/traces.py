"""OpenTelemetry spans of a frame's way through the service: `frame` from receive to reply, in it `decode`, `queue` and `backbone`.

The only room that knows OpenTelemetry; what makes and sends spans is imported where `traces` names a receiver. Spans are made once
the frame has its result, from the times that were taken anyway, and sent by a thread of the exporter; what it cannot send in
time is dropped. The standard variables (OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME, OTEL_BSP_...) work.
"""

import os
import threading
import time
from typing import TYPE_CHECKING

from service.front.frames import Frame, FrameResult, Outcome

if TYPE_CHECKING:
    from opentelemetry.context import Context

# Of frames whose client says nothing of tracing. Eight cameras at 25 Hz are then two traces a second.
DEFAULT_RATIO = 0.01
_CLOSE_SECONDS = 2.0
_NANOSECONDS = 1_000_000_000


class TracesUnavailable(Exception):
    """OpenTelemetry is not installed."""


class Traces:
    """Spans of frames, sent to an OTLP receiver."""

    def __init__(self, receiver: str, release: str) -> None:
        """`receiver` is the URL of an OTLP/gRPC receiver, http or https. Raises TracesUnavailable."""
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
            from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise TracesUnavailable("OpenTelemetry is not installed: pip install 'mixformer-service[traces]'") from error
        os.environ.setdefault("OTEL_SERVICE_NAME", "mixformer")
        sampler = None if "OTEL_TRACES_SAMPLER" in os.environ else ParentBased(TraceIdRatioBased(DEFAULT_RATIO))
        resource = Resource.create({"service.version": release, "process.pid": os.getpid()})
        self._provider: TracerProvider = TracerProvider(sampler, resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(receiver, timeout=_CLOSE_SECONDS)))
        self._tracer = self._provider.get_tracer("mixformer.front", release)
        self._propagator = TraceContextTextMapPropagator()
        self._within = set_span_in_context
        self._kind = SpanKind.SERVER
        self._failed = Status(StatusCode.ERROR)

    def on_frame(self, frame: Frame, result: FrameResult) -> None:
        """A frame has its result: its spans, where it is to be traced."""
        # What is on the monotonic clock, in unix nanoseconds.
        offset = time.time_ns() - time.monotonic_ns()
        parent = self._propagator.extract({"traceparent": frame.traceparent}) if frame.traceparent else None
        begins_at = offset + _nanoseconds(frame.arrived_at)
        span = self._tracer.start_span("frame", parent, self._kind, start_time=begins_at)
        if span.is_recording():
            timing, within = result.timing, self._within(span)
            on_device_at = timing.asked_at + timing.queue
            self._part("decode", within, offset, timing.decode_at, timing.decode)
            self._part("queue", within, offset, timing.asked_at, timing.queue)
            self._part("backbone", within, offset, on_device_at, timing.backbone)
            # OTLP's integers are signed: one larger number would lose the whole batch of spans.
            span.set_attribute("mixformer.frame_number", frame.number if frame.number < 2**63 else str(frame.number))
            span.set_attribute("mixformer.outcome", result.outcome.name.lower())
            span.set_attribute("mixformer.batch_size", timing.batch_size)
            if result.error is not None:
                span.set_attribute("error.type", result.error.reason)
            if result.outcome is Outcome.REJECTED:
                span.set_status(self._failed)
        span.end(begins_at + _nanoseconds(result.timing.total))

    def close(self) -> None:
        """Send what waits. A receiver that does not answer costs two seconds."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)

    def _part(self, name: str, within: "Context", offset: int, began_at: float, seconds: float) -> None:
        if seconds:
            begins_at = offset + _nanoseconds(began_at)
            self._tracer.start_span(name, within, start_time=begins_at).end(begins_at + _nanoseconds(seconds))


def _nanoseconds(seconds: float) -> int:
    return round(seconds * _NANOSECONDS)

"""The figures of a front, for Prometheus. Base units; no session id in any label."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, start_http_server

from model.target import TargetStatus
from service.config import Address
from service.front.frames import FrameResult, Outcome
from service.front.telemetry.instruments import counter, counters, gauge, histogram
from service.front.telemetry.session_metrics import SessionMetrics
from service.front.telemetry.worker_metrics import WorkerMetrics
from service.front.workers.observer import EngineObserver


class Metrics:
    """Everything that is counted, on a registry of its own. Where several fronts run, the parent adds them up (totals.py)."""

    def __init__(
        self, release: str = "", clock: Callable[[], float] = time.monotonic, *, tells_of_workers: bool = True
    ) -> None:
        """`tells_of_workers`: of all fronts that are linked to the same workers, one exports what the workers say."""
        self.registry = registry = CollectorRegistry()
        self._workers = WorkerMetrics(registry, release, clock, is_told=tells_of_workers)
        self._decode = histogram(registry, "decode_latency_seconds", "Time to decode one frame")
        self._queue = histogram(registry, "queue_wait_seconds", "Wait of a frame for the device")
        self._frame = histogram(
            registry, "frame_latency_seconds", "From the arrival of a frame to its result, where it was processed"
        )
        self._calls = counter(registry, "calls_total", "Calls that have ended", ("method", "end"))
        self._received = counter(registry, "frames_received_total", "Frames that have come")
        self._abandoned = counter(
            registry, "frames_abandoned_total", "Frames without a result, as their stream or call ended before"
        )
        self._frames = counters(registry, "frames_total", "Frames answered", "outcome", [each.name for each in Outcome])
        self._unauthenticated = counter(registry, "unauthenticated_calls_total", "Calls refused for want of a good token")
        self._drops = counter(registry, "drops_total", "Frames answered as dropped", ("reason",))
        self._rejections = counter(registry, "rejections_total", "Frames answered as rejected", ("reason",))
        self._targets = counters(registry, "targets_total", "Target results", "status", [each.name for each in TargetStatus])
        self._updates = counter(registry, "template_updates_total", "Templates set or renewed")
        self.kept = SessionMetrics(registry)
        self._sessions = gauge(registry, "sessions_active", "Sessions that exist", "livesum")
        self._streams = gauge(registry, "streams_active", "Streams that are open", "livesum")
        self._tasks = gauge(registry, "front_tasks", "Tasks on the event loop", "livesum")
        self._cpu = counter(registry, "front_cpu_seconds_total", "CPU time of the front")
        self._cpu_counted = 0.0

    def serve(self, address: Address) -> int:
        """Export on a port of its own, from a thread, for as long as the process lives; gives the port.

        Raises OSError where it cannot be had.
        """
        server, _ = start_http_server(address.port, address.host, self.registry)
        return server.server_port

    def worker(self, number: int) -> EngineObserver:
        """What hears of the worker with this number."""
        return self._workers.of(number)

    def refresh(self, sessions: int, streams: int, tasks: int) -> None:
        """Bring up to date what changes without an event. To be called a few times a second."""
        self._sessions.set(sessions)
        self._streams.set(streams)
        self._tasks.set(tasks)
        used = time.process_time()
        self._cpu.inc(used - self._cpu_counted)
        self._cpu_counted = used
        self._workers.refresh()

    def on_call(self, method: str, end: str) -> None:
        """A call has ended: `ok`, `cancelled` by its client, or with an error's reason."""
        self._calls.labels(method, end.lower()).inc()

    def on_received(self) -> None:
        """A frame has come."""
        self._received.inc()

    def on_abandoned(self, frames: int) -> None:
        """A stream or call has ended while so many frames had no result yet."""
        self._abandoned.inc(frames)

    def on_frame(self, result: FrameResult) -> None:
        """A frame has its result."""
        self._frames[result.outcome.name].inc()
        if result.outcome is Outcome.PROCESSED:
            self._frame.observe(result.timing.total)
        if result.outcome is Outcome.DROPPED and result.error is not None:
            self._drops.labels(result.error.reason.lower()).inc()
        if result.outcome is Outcome.REJECTED and result.error is not None:
            self._rejections.labels(result.error.reason.lower()).inc()
        for report in result.targets.values():
            self._targets[report.status.name].inc()
            self._updates.inc(report.template_updated)
        if result.timing.batch_size:
            self._queue.observe(result.timing.queue)

    def on_unauthenticated(self) -> None:
        """A call came without a good token."""
        self._unauthenticated.inc()

    def on_decoded(self, seconds: float) -> None:
        """A frame was decoded."""
        self._decode.observe(seconds)

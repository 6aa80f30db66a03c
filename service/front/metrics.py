"""The figures of a front and its worker, for Prometheus. Base units; no session id in any label.

Implements the engine's observer: the worker measures, the front exports.
"""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, start_http_server

from model.target import TargetStatus
from service.config import Address
from service.front.frames import FrameResult, Outcome
from service.messages import BatchStats, Hello

# 0.5 ms (one tiny crop on a GPU) to 5 s (a large network on a busy CPU).
LATENCY_BUCKETS = (
    0.0005,
    0.001,
    0.002,
    0.003,
    0.005,
    0.0075,
    0.01,
    0.015,
    0.02,
    0.03,
    0.05,
    0.075,
    0.1,
    0.2,
    0.35,
    0.5,
    1.0,
    2.0,
    5.0,
)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
# Of a worker without torch to one whose GPU warms up.
_OUTAGE_BUCKETS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)
_PREFIX = "mixformer"

disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """Everything that is counted, on a registry of its own."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self._clock = clock
        self._device = "unknown"
        self._pong_at = clock()
        self._backbone = self._latency(
            "backbone_latency_seconds", "Backbone time of one batch, by stage; `all` is the whole", ("stage", "device", "batch")
        )
        self._encode = self._latency("template_encode_latency_seconds", "Time a step spent on encoding templates", ("device",))
        self._head = self._latency("head_latency_seconds", "Time of the corner and score heads for one batch", ("device",))
        self._decode = self._latency("decode_latency_seconds", "Time to decode one frame")
        self._queue = self._latency("queue_wait_seconds", "Wait of a frame for the device")
        self._frame = self._latency(
            "frame_latency_seconds", "From the arrival of a frame to its result, where it was processed"
        )
        self._batch = Histogram(
            "batch_size", "Targets tracked in one batch", namespace=_PREFIX, registry=self.registry, buckets=_BATCH_BUCKETS
        )
        self._unauthenticated = self._counter("unauthenticated_calls_total", "Calls refused for want of a good token")
        self._capacity = self._gauge("batch_capacity", "Targets that one batch can hold")
        self._padding = self._counter("batch_padding_total", "Places of batches that were run for nobody")
        self._frames = self._counter("frames_total", "Frames answered", "outcome", [each.name for each in Outcome])
        self._drops = self._counter("drops_total", "Frames answered as dropped", "reason")
        self._rejections = self._counter("rejections_total", "Frames answered as rejected", "reason")
        self._targets = self._counter("targets_total", "Target results", "status", [each.name for each in TargetStatus])
        self._updates = self._counter("template_updates_total", "Templates set or renewed")
        self._evictions = self._counter("evictions_total", "Template memories evicted from the device")
        self._misses = self._counter("memory_misses_total", "Template memories sent again because the worker had evicted them")
        self._outage = Histogram(
            "worker_outage_seconds", "From the loss of a worker to the next one's hello", namespace=_PREFIX,
            registry=self.registry, buckets=_OUTAGE_BUCKETS,
        )  # fmt: skip
        self._lost_at = clock()
        self._restarts = self._counter("worker_restarts_total", "Workers that came back after the first")
        self._slots = self._gauge("slots", "Template memories that the device has room for")
        self._slots_in_use = self._gauge("slots_in_use", "Template memories on the device")
        self._sessions = self._gauge("sessions_active", "Sessions that exist")
        self._streams = self._gauge("streams_active", "Streams that are open")
        self._up = self._gauge("worker_up", "Whether the front is linked to its worker")
        age = self._gauge("worker_heartbeat_age_seconds", "Since the worker's device last answered")
        age.set_function(lambda: self._clock() - self._pong_at)
        self._cpu = self._counter("front_cpu_seconds_total", "CPU time of the front")
        self._cpu_counted = 0.0

    def serve(self, address: Address) -> int:
        """Export on a port of its own, from a thread, for as long as the process lives; gives the port.

        Raises OSError where it cannot be had.
        """
        server, _ = start_http_server(address.port, address.host, self.registry)
        return server.server_port

    def watch(self, sessions: Callable[[], int], streams: Callable[[], int]) -> None:
        """Where the numbers of sessions and streams are read at each scrape, from the exporter's thread."""
        self._sessions.set_function(sessions)
        self._streams.set_function(streams)

    def refresh(self) -> None:
        """Bring up to date what changes without an event; to be called about every second."""
        used = time.process_time()
        self._cpu.inc(used - self._cpu_counted)
        self._cpu_counted = used

    def on_hello(self, hello: Hello, version: str) -> None:
        """The worker said what it runs."""
        self._device = hello.device
        self._link(hello)
        self._pong_at = self._clock()
        names = ("version", "variant", "weights_sha256", "device", "precision")
        info = Gauge("build_info", "What runs here", names, namespace=_PREFIX, registry=self.registry)
        info.labels(version, hello.variant, hello.weights_sha256, hello.device, hello.precision).set(1)

    def on_frame(self, result: FrameResult) -> None:
        """A frame has its result."""
        self._frames.labels(result.outcome.name.lower()).inc()
        if result.outcome is Outcome.PROCESSED:
            self._frame.observe(result.timing.total)
        if result.outcome is Outcome.DROPPED and result.error is not None:
            self._drops.labels(result.error.reason.lower()).inc()
        if result.outcome is Outcome.REJECTED and result.error is not None:
            self._rejections.labels(result.error.reason.lower()).inc()
        for report in result.targets.values():
            self._targets.labels(report.status.name.lower()).inc()
            self._updates.inc(report.template_updated)
        if result.timing.batch_size:
            self._queue.observe(result.timing.queue)

    def on_unauthenticated(self) -> None:
        """A call came without a good token."""
        self._unauthenticated.inc()

    def on_decoded(self, seconds: float) -> None:
        """A frame was decoded."""
        self._decode.observe(seconds)

    def on_stats(self, stats: BatchStats) -> None:
        """The worker made a step."""
        batch = str(next((bound for bound in _BATCH_BUCKETS if stats.padded_size <= bound), _BATCH_BUCKETS[-1]))
        for stage, seconds in stats.stage_seconds.items():
            self._backbone.labels(stage, self._device, batch).observe(seconds)
        if stats.batch_size:
            self._batch.observe(stats.batch_size)
            self._padding.inc(max(0, stats.padded_size - stats.batch_size))
            self._head.labels(self._device).observe(stats.head_seconds)
        if stats.encoded:
            self._encode.labels(self._device).observe(stats.encode_seconds)
        self._evictions.inc(stats.evictions)
        self._slots_in_use.set(stats.slots_in_use)

    def on_pong(self, slots_in_use: int) -> None:
        """The worker's device answered a ping."""
        self._pong_at = self._clock()
        self._slots_in_use.set(slots_in_use)

    def on_missing(self) -> None:
        """The worker did not hold a memory that it was thought to hold."""
        self._misses.inc()

    def on_lost(self) -> None:
        """The link to the worker ended."""
        self._up.set(0)
        self._lost_at = self._clock()

    def on_reconnect(self, hello: Hello) -> None:
        """There is a worker again; it may have other slots than the one before."""
        self._link(hello)
        self._restarts.inc()
        self._outage.observe(self._clock() - self._lost_at)

    def _link(self, hello: Hello) -> None:
        self._up.set(1)
        self._slots.set(hello.slots)
        self._capacity.set(hello.max_batch)

    def _latency(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Histogram:
        return Histogram(name, text, labels, namespace=_PREFIX, registry=self.registry, buckets=LATENCY_BUCKETS)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, namespace=_PREFIX, registry=self.registry)

    def _counter(self, name: str, text: str, label: str = "", known: list[str] | None = None) -> Counter:
        """A counter. Values of its label that are known beforehand stand at 0 from the start, so that rates are right."""
        counter = Counter(name, text, (label,) if label else (), namespace=_PREFIX, registry=self.registry)
        for value in known or ():
            counter.labels(value.lower())
        return counter

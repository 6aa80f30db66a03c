"""The figures of the workers, for Prometheus: they measure, a front exports."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry

from service.front.telemetry.instruments import counter, gauge, histogram
from service.front.workers.observer import EngineObserver
from service.messages import BatchStats, Hello

_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
# Of a worker without torch to one whose GPU warms up.
_OUTAGE_BUCKETS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)


class WorkerMetrics:
    """What all workers did, and how each one is."""

    def __init__(self, registry: CollectorRegistry, release: str, clock: Callable[[], float], *, is_told: bool) -> None:
        """Where not `is_told`, another front exports the same, and only what this front alone knows is counted."""
        self.release, self.clock = release, clock
        self._is_told = is_told
        self.backbone = histogram(
            registry, "backbone_latency_seconds", "Backbone time of one batch, by stage; `all` is the whole",
            ("stage", "device", "batch"),
        )  # fmt: skip
        self.encode = histogram(
            registry, "template_encode_latency_seconds", "Time a step spent on encoding templates", ("device",)
        )
        self.head = histogram(registry, "head_latency_seconds", "Time of the corner and score heads for one batch", ("device",))
        self.batch = histogram(registry, "batch_size", "Targets tracked in one batch", buckets=_BATCH_BUCKETS)
        self.evictions = counter(registry, "evictions_total", "Template memories evicted from the device")
        self.misses = counter(
            registry, "memory_misses_total", "Template memories sent again because the worker had evicted them"
        )
        self.outage = histogram(
            registry, "worker_outage_seconds", "From the loss of a worker to the next one's hello", buckets=_OUTAGE_BUCKETS
        )
        self.restarts = counter(registry, "worker_restarts_total", "Workers that came back after the first", ("worker",))
        self.padding = counter(registry, "batch_padding_total", "Places of batches that were run for nobody")
        self.capacity = gauge(registry, "batch_capacity", "Targets that one batch can hold", "livemax", ("worker",))
        self.slots = gauge(registry, "slots", "Template memories that the device has room for", "livemax", ("worker",))
        self.in_use = gauge(registry, "slots_in_use", "Template memories on the device", "livemax", ("worker",))
        self.up = gauge(registry, "worker_up", "Whether the front is linked to its worker", "livemax", ("worker",))
        self.age = gauge(
            registry, "worker_heartbeat_age_seconds", "Since the worker's device last answered", "livemax", ("worker",)
        )
        names = ("version", "variant", "weights_sha256", "device", "precision")
        self.info = gauge(registry, "build_info", "What runs here", "livemax", names)
        self._tellers: list[_Teller] = []

    def of(self, number: int) -> EngineObserver:
        """What hears of the worker with this number."""
        if not self._is_told:
            return _Observer(self)
        self._tellers.append(_Teller(self, number))
        return self._tellers[-1]

    def refresh(self) -> None:
        """Bring the ages up to date."""
        for teller in self._tellers:
            teller.refresh()


class _Observer:
    """An EngineObserver of one worker that only counts what this front alone knows."""

    def __init__(self, metrics: WorkerMetrics) -> None:
        self._metrics = metrics

    def on_hello(self, hello: Hello) -> None:
        """Told by another front."""

    def on_stats(self, stats: BatchStats) -> None:
        """Told by another front."""

    def on_pong(self, slots_in_use: int) -> None:
        """Told by another front."""

    def on_lost(self) -> None:
        """Told by another front."""

    def on_missing(self) -> None:
        self._metrics.misses.inc()


class _Teller(_Observer):
    """An EngineObserver of one worker that exports all it hears."""

    def __init__(self, metrics: WorkerMetrics, number: int) -> None:
        super().__init__(metrics)
        worker = str(number)
        self._up, self._age = metrics.up.labels(worker), metrics.age.labels(worker)
        self._capacity, self._slots = metrics.capacity.labels(worker), metrics.slots.labels(worker)
        self._in_use, self._restarts = metrics.in_use.labels(worker), metrics.restarts.labels(worker)
        self._device = ""
        self._pong_at = self._lost_at = metrics.clock()

    def on_hello(self, hello: Hello) -> None:
        if self._device:
            self._restarts.inc()
            self._metrics.outage.observe(self._metrics.clock() - self._lost_at)
        self._device = hello.device
        self._pong_at = self._metrics.clock()
        self._up.set(1)
        self._set_room(hello)
        names = (self._metrics.release, hello.variant, hello.weights_sha256, hello.device, hello.precision)
        self._metrics.info.labels(*names).set(1)

    def on_stats(self, stats: BatchStats) -> None:
        batch = str(next((bound for bound in _BATCH_BUCKETS if stats.padded_size <= bound), _BATCH_BUCKETS[-1]))
        for stage, seconds in stats.stage_seconds.items():
            self._metrics.backbone.labels(stage, self._device, batch).observe(seconds)
        if stats.batch_size:
            self._metrics.batch.observe(stats.batch_size)
            self._metrics.padding.inc(max(0, stats.padded_size - stats.batch_size))
            self._metrics.head.labels(self._device).observe(stats.head_seconds)
        if stats.encoded:
            self._metrics.encode.labels(self._device).observe(stats.encode_seconds)
        self._metrics.evictions.inc(stats.evictions)
        self._in_use.set(stats.slots_in_use)
        self._set_room(stats)

    def on_pong(self, slots_in_use: int) -> None:
        self._pong_at = self._metrics.clock()
        self._in_use.set(slots_in_use)

    def on_lost(self) -> None:
        self._up.set(0)
        self._lost_at = self._metrics.clock()

    def _set_room(self, said: Hello | BatchStats) -> None:
        self._slots.set(said.slots)
        self._capacity.set(said.max_batch)

    def refresh(self) -> None:
        """The age of the last heartbeat is now another."""
        self._age.set(self._metrics.clock() - self._pong_at)

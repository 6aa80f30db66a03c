"""How this service's metrics are made: one prefix, one set of bounds, and how several fronts' values become one."""

from collections.abc import Sequence
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

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
PREFIX = "mixformer"
# Over living fronts; a front that died is left out.
Merge = Literal["livesum", "livemax"]

disable_created_metrics()  # type: ignore[no-untyped-call]


def histogram(
    registry: CollectorRegistry, name: str, text: str, labels: Sequence[str] = (), buckets: Sequence[float] = LATENCY_BUCKETS
) -> Histogram:
    """Seconds, unless other bounds are given."""
    return Histogram(name, text, labels, namespace=PREFIX, registry=registry, buckets=buckets)


def gauge(registry: CollectorRegistry, name: str, text: str, merge: Merge, labels: Sequence[str] = ()) -> Gauge:
    """A value that stands until it is set again."""
    return Gauge(name, text, labels, namespace=PREFIX, registry=registry, multiprocess_mode=merge)


def counter(registry: CollectorRegistry, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
    """A sum that only grows."""
    return Counter(name, text, labels, namespace=PREFIX, registry=registry)


def counters(registry: CollectorRegistry, name: str, text: str, label: str, values: Sequence[str]) -> dict[str, Counter]:
    """A counter for every value of its label. All stand at 0 from the start, so that rates are right."""
    family = counter(registry, name, text, (label,))
    return {value: family.labels(value.lower()) for value in values}

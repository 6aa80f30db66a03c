"""Figures of a run: percentiles, and a table for people."""

import math
from collections.abc import Iterable, Sequence

import msgspec


class Latency(msgspec.Struct, frozen=True):
    """Latency percentiles over the frames of a run, in seconds."""

    p50: float
    p95: float
    p99: float
    max: float


def percentile(ordered: Sequence[float], share: float) -> float:
    """The least value that `share` (above 0, at most 1) of the ascending values do not exceed. `ordered` is not empty."""
    return ordered[math.ceil(share * len(ordered)) - 1]


def latency_of(seconds: Iterable[float]) -> Latency | None:
    """The percentiles of measured latencies; None where nothing was measured."""
    ordered = sorted(seconds)
    return Latency(*(percentile(ordered, share) for share in (0.50, 0.95, 0.99, 1.0))) if ordered else None


def describe_latency(latency: Latency | None) -> str:
    """The percentiles in milliseconds, for a table."""
    if latency is None:
        return "-"
    return " / ".join(f"{1000 * value:.1f}" for value in (latency.p50, latency.p95, latency.p99)) + " ms"


def format_table(rows: Iterable[tuple[str, str]]) -> str:
    """Names and values in two columns."""
    listed = list(rows)
    width = max(len(name) for name, _ in listed)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in listed)

"""The figures of sessions that are kept elsewhere: resume tokens and the store."""

from prometheus_client import CollectorRegistry

from service.front.telemetry.instruments import counter, counters, histogram


class SessionMetrics:
    """A part of a front's metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._given = counter(registry, "resume_tokens_issued_total", "Resume tokens given to clients")
        self._withheld = counter(registry, "resume_tokens_withheld_total", "Resume tokens that were too large to be given")
        self._refused = counter(registry, "resume_tokens_refused_total", "Resume tokens that clients sent in vain", ("reason",))
        self._resumed = counters(
            registry, "sessions_resumed_total", "Sessions of elsewhere that went on here", "source", ("token", "store")
        )
        self._taken = counter(registry, "sessions_taken_over_total", "Sessions that another server took from this one")
        self._written = counter(registry, "snapshots_written_total", "Snapshots of sessions that the store has taken")
        self._unwritten = counter(registry, "snapshots_failed_total", "Snapshots of sessions that the store has not taken")
        self._store = histogram(registry, "store_latency_seconds", "Answered round trips to the store")

    def on_token(self, *, is_given: bool) -> None:
        """A resume token was made, and given if it was not too large."""
        (self._given if is_given else self._withheld).inc()

    def on_refused(self, reason: str) -> None:
        """A client's resume token was refused."""
        self._refused.labels(reason.lower()).inc()

    def on_resumed(self, source: str) -> None:
        """A session went on here from a `token` or the `store`."""
        self._resumed[source].inc()

    def on_taken_over(self) -> None:
        """Another server has taken a session of this one."""
        self._taken.inc()

    def on_snapshots(self, *, written: int, failed: int) -> None:
        """The store was sent snapshots."""
        self._written.inc(written)
        self._unwritten.inc(failed)

    def on_store(self, seconds: float) -> None:
        """The store has answered."""
        self._store.observe(seconds)

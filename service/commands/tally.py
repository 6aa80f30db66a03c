"""What became of the frames of a load test, counted and as figures."""

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from mixformer.tracking.v1 import tracking_pb2 as pb
from service.commands.pace import Schedule
from service.commands.summary import Latency, describe_latency, format_table, latency_of


class LoadReport(msgspec.Struct, frozen=True):
    """What became of the frames. Latencies are those of PROCESSED frames, from the time a frame was due to its result.

    `streams_resumed` counts streams that broke and whose session went on in another one;
    `sessions_begun_anew` those of them whose session no server knew any more, so that its targets began at their last boxes.
    `send_delay_seconds` is how late frames were sent: flow control held the stream back, or this client is too slow.
    """

    streams: int
    rate: float
    due: int
    processed: int
    dropped: int
    rejected: dict[str, int]
    unanswered: int
    stream_errors: dict[str, int]
    streams_resumed: int
    sessions_begun_anew: int
    frames_per_second: float
    latency_seconds: Latency | None
    send_delay_seconds: Latency | None

    def to_table(self) -> str:
        """The figures for people."""
        rows = [
            ("streams", f"{self.streams} at {self.rate:g} frames/s"),
            ("frames due", str(self.due)),
            ("processed", str(self.processed)),
            ("dropped", str(self.dropped)),
            ("rejected", _describe(self.rejected)),
            ("unanswered", str(self.unanswered)),
            ("stream errors", _describe(self.stream_errors)),
            ("streams resumed", str(self.streams_resumed)),
            ("sessions begun anew", str(self.sessions_begun_anew)),
            ("frames/s", f"{self.frames_per_second:.1f}"),
            ("latency p50 / p95 / p99", describe_latency(self.latency_seconds)),
            ("send delay p50 / p95 / p99", describe_latency(self.send_delay_seconds)),
        ]
        return format_table(rows)


class Tally:
    """Counts what comes back, over all streams."""

    def __init__(self) -> None:
        self._outcomes: Counter[int] = Counter()
        self._rejected: Counter[str] = Counter()
        self._stream_errors: Counter[str] = Counter()
        self._resumed = 0
        self._begun_anew = 0
        self._latencies: list[float] = []
        self._delays: list[float] = []
        self._last_at = 0.0

    def sent(self, due_at: float, now: float) -> None:
        """A frame is handed to the stream."""
        self._delays.append(now - due_at)

    def received(self, result: pb.FrameResult, due_at: float, now: float) -> None:
        """A frame is answered."""
        self._outcomes[result.outcome] += 1
        self._last_at = max(self._last_at, now)
        if result.outcome == pb.FRAME_OUTCOME_PROCESSED:
            self._latencies.append(now - due_at)
        elif result.outcome == pb.FRAME_OUTCOME_REJECTED:
            self._rejected[result.error.reason] += 1

    def failed(self, name: str) -> None:
        """A stream is over before its frames are answered."""
        self._stream_errors[name] += 1

    def resumed(self, times: int, begun_anew: int) -> None:
        """A session went on in so many further streams; at the beginning of some of them no server knew its targets any more."""
        self._resumed += times
        self._begun_anew += begun_anew

    def report(self, rate: float, schedules: Sequence[Schedule]) -> LoadReport:
        """The figures of the run; `rate` is frames a second of one stream."""
        due = sum(schedule.frame_count for schedule in schedules)
        processed = self._outcomes[pb.FRAME_OUTCOME_PROCESSED]
        seconds = self._last_at - min(schedule.begins_at for schedule in schedules)
        return LoadReport(
            streams=len(schedules),
            rate=rate,
            due=due,
            processed=processed,
            dropped=self._outcomes[pb.FRAME_OUTCOME_DROPPED],
            rejected=dict(self._rejected),
            unanswered=due - self._outcomes.total(),
            stream_errors=dict(self._stream_errors),
            streams_resumed=self._resumed,
            sessions_begun_anew=self._begun_anew,
            frames_per_second=processed / seconds if seconds > 0 else 0.0,
            latency_seconds=latency_of(self._latencies),
            send_delay_seconds=latency_of(self._delays),
        )


def _describe(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "0"

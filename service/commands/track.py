"""Where the results of `mixformer track` go: JSON lines, a drawn video, a progress bar, and the figures of the run."""

import argparse
import sys
import time
from collections import Counter
from contextlib import ExitStack
from statistics import fmean
from types import TracebackType
from typing import Self

import msgspec
from tqdm import tqdm

from service.commands.command import CommandError
from service.commands.drawing import draw_targets
from service.commands.footage import Footage, VideoFile
from service.commands.results import ErrorRecord, FrameRecord
from service.commands.summary import Latency, describe_latency, format_table, latency_of
from service.config import Limits
from service.decode import Payload, decode
from service.errors import BadFrame, FrameTooLarge

# Files of one's own machine need no protection from their sender; only absurd sizes are refused.
FILE_LIMITS = Limits(max_frame_bytes=2**31, max_frame_pixels=2**28)


class TrackSummary(msgspec.Struct, frozen=True):
    """The figures of a run. `mean_score` leaves the first frame out: its score is the user's word, not a measurement."""

    frames: int
    rejected: int
    dropped: int
    frames_per_second: float
    latency_seconds: Latency | None
    mean_score: float | None

    def to_table(self) -> str:
        """The figures for people."""
        score = "-" if self.mean_score is None else f"{self.mean_score:.3f}"
        rows = [
            ("frames", str(self.frames)),
            ("rejected", str(self.rejected)),
            ("dropped", str(self.dropped)),
            ("frames/s", f"{self.frames_per_second:.1f}"),
            ("latency p50 / p95 / p99", describe_latency(self.latency_seconds)),
            ("mean score", score),
        ]
        return format_table(rows)


class TrackOutput:
    """Takes a run's results, frame by frame; use it with `with`. Reports where `--output`, `--video` and `--json` say."""

    def __init__(self, arguments: argparse.Namespace, footage: Footage) -> None:
        self._arguments = arguments
        self._footage = footage
        self._stack = ExitStack()
        self._outcomes: Counter[str] = Counter()
        self._latencies: list[float] = []
        self._scores: list[float] = []
        self._begun_at = time.perf_counter()
        self._ended_at = self._begun_at

    def __enter__(self) -> Self:
        output, video, source = self._arguments.output, self._arguments.video, self._arguments.source
        for flag, path in (("--output", output), ("--video", video)):
            if path is not None and path.exists() and path.samefile(source):
                raise CommandError(f"{flag} {path} is the video that is tracked", exit_code=2)
        with ExitStack() as stack:
            self._lines = stack.enter_context(output.open("wb")) if output else None
            self._video = stack.enter_context(VideoFile(video, self._footage.frame_rate)) if video else None
            # disable=None: only where a person watches a terminal
            self._progress = stack.enter_context(tqdm(total=self._footage.frame_count or None, unit="frame", disable=None))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def add(self, payload: Payload, record: FrameRecord, latency_seconds: float) -> None:
        """Takes the result of the next frame. Raises CommandError where the first frame was refused: nothing can be tracked then."""
        self._ended_at = time.perf_counter()
        self._outcomes[record.outcome] += 1
        self._latencies.append(latency_seconds)
        if self._lines is not None:
            self._lines.write(msgspec.json.encode(record) + b"\n")
        if record.error is not None:
            self._complain(record, record.error)
        if record.frame_number > 0:
            self._scores.extend(target.score for target in record.targets if target.score is not None)
        if self._video is not None:
            self._draw(self._video, payload, record)
        self._progress.update()

    def finish(self) -> int:
        """Prints the figures. The exit code: 1 where a frame was rejected. Raises CommandError where there was no frame at all."""
        summary = self._summary()
        if not summary.frames:
            raise CommandError(f"{self._arguments.source} holds no frame that can be read")
        if summary.frames < self._footage.frame_count:
            told = f"{self._arguments.source} says it holds {self._footage.frame_count} frames, {summary.frames} could be read"
            print(f"mixformer track: {told}", file=sys.stderr)
        print(msgspec.json.encode(summary).decode() if self._arguments.json else summary.to_table())
        return 1 if summary.rejected else 0

    def _complain(self, record: FrameRecord, error: ErrorRecord) -> None:
        message = f"{error.reason}: {error.message}"
        if record.frame_number == 0 and record.outcome == "REJECTED":
            raise CommandError(f"first frame: {message}")
        tqdm.write(f"mixformer track: frame {record.frame_number} {record.outcome}: {message}", file=sys.stderr)

    def _draw(self, video: VideoFile, payload: Payload, record: FrameRecord) -> None:
        try:
            video.write(draw_targets(decode(payload, FILE_LIMITS), record.targets))
        except (BadFrame, FrameTooLarge):
            return  # no picture to draw on

    def _summary(self) -> TrackSummary:
        seconds = self._ended_at - self._begun_at
        return TrackSummary(
            frames=self._outcomes.total(),
            rejected=self._outcomes["REJECTED"],
            dropped=self._outcomes["DROPPED"],
            frames_per_second=self._outcomes.total() / seconds if seconds else 0.0,
            latency_seconds=latency_of(self._latencies),
            mean_score=fmean(self._scores) if self._scores else None,
        )

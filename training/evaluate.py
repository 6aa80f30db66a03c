"""One pass over annotated sequences: our tracker beside others, from the first box alone."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from model.checkpoint import LoadedModel
from model.compiled import CompiledMixFormer
from model.config import UpdateRule
from model.crop import Image
from model.geometry import Box, overlap
from model.mixformer import Network
from model.target import NonFinitePredictionError, TargetReport
from model.tracker import Tracker
from training.calibrate import Sight
from training.measures import Measures, is_usable, mean, measure
from training.peers import Follower, HoldStill, Mil, VitTrack
from training.sequences import Sequence as Video
from training.sequences import read_frame


class Run(NamedTuple):
    """A tracker's boxes on the frames after the first, their measures, and our tracker's reports."""

    boxes: list[Box]
    reports: list[TargetReport]
    measures: Measures


class Ours:
    """The project's tracker as a follower; a frame without a usable prediction keeps the last box."""

    def __init__(self, network: Network, rule: UpdateRule) -> None:
        self._tracker = Tracker(network, rule)
        self.report: TargetReport

    def start(self, image: Image, box: Box) -> None:
        """Begin with the target at `box`."""
        self.report = self._tracker.start(image, box)

    def follow(self, image: Image) -> Box:
        """Where the target is in the next frame."""
        try:
            self.report = self._tracker.track(image)
        except NonFinitePredictionError:
            self.report = self.report._replace(score=0.0)
        return self.report.box


def followers(loaded: LoadedModel, vittrack: Path | None, with_bfloat16: bool = False) -> dict[str, Follower]:
    """All that are to be compared, by name, ours first: in float32, with 8-bit integers where the weights have ranges, in bfloat16."""
    name, threads = loaded.model.config.name, torch.get_num_threads()
    ours: dict[str, Follower] = {name: Ours(CompiledMixFormer(loaded.model, threads), loaded.update_rule)}
    if loaded.ranges:
        quantised = CompiledMixFormer(loaded.model, threads, ranges=loaded.ranges)
        ours[f"{name} int8"] = Ours(quantised, loaded.update_rule)
    if with_bfloat16:
        ours[f"{name} bfloat16"] = Ours(CompiledMixFormer(loaded.model, threads, in_bfloat16=True), loaded.update_rule)
    peers: dict[str, Follower] = {"hold still": HoldStill(), "MIL": Mil()}
    return ours | peers | ({"VitTrack": VitTrack(vittrack, torch.get_num_threads())} if vittrack is not None else {})


def run(follower: Follower, video: Video) -> Run:
    """One pass; the time is the tracker's alone, without reading the frames."""
    follower.start(read_frame(video.frames[0]), video.boxes[0])
    boxes: list[Box] = []
    reports: list[TargetReport] = []
    seconds = 0.0
    for path in video.frames[1:]:
        frame = read_frame(path)
        began = time.perf_counter()
        boxes.append(follower.follow(frame))
        seconds += time.perf_counter() - began
        if isinstance(follower, Ours):
            reports.append(follower.report)
    return Run(boxes, reports, measure(boxes, video.boxes[1:], max(seconds, 1e-9)))


def evaluate(compared: Mapping[str, Follower], videos: Sequence[Video]) -> dict[str, dict[str, Run]]:
    """Every follower on every video: runs by follower and video name."""
    bar = tqdm(total=len(compared) * len(videos), unit="sequence", disable=None)
    runs: dict[str, dict[str, Run]] = {name: {} for name in compared}
    for name, follower in compared.items():
        for video in videos:
            bar.set_description(f"{name}: {video.name}")
            runs[name][video.name] = run(follower, video)
            bar.update()
    bar.close()
    return runs


def table(runs: Mapping[str, Mapping[str, Run]]) -> str:
    """The measures as text, a row per follower and sequence, a mean for each follower."""
    head = f"{'tracker':<16} {'sequence':<14} {'AUC':>6} {'P@20':>6} {'P norm':>6} {'overlap':>7} {'frames/s':>9}"
    lines = [head, "-" * len(head)]
    for name, per_video in runs.items():
        rows = {video: each.measures for video, each in per_video.items()}
        rows["mean"] = mean(list(rows.values()))
        for video, (auc, precision, normalised, shared, speed) in rows.items():
            figures = f"{auc:6.3f} {precision:6.3f} {normalised:6.3f} {shared:7.3f} {speed:9.1f}"
            lines.append(f"{name:<16} {video:<14} {figures}")
        lines.append("")
    return "\n".join(lines)


def watched(runs: Mapping[str, Run], videos: Sequence[Video]) -> list[list[Sight]]:
    """What our tracker made of each video's annotated frames after the first; nothing for a tracker without reports."""
    return [
        [
            Sight(report.score or 0.0, overlap(report.box, truth), report.status)
            for report, truth in zip(runs[video.name].reports, video.boxes[1:], strict=False)
            if is_usable(truth)
        ]
        for video in videos
    ]


def write_json(runs: Mapping[str, Mapping[str, Run]], path: Path) -> None:
    """The measures and boxes of every run, scores and statuses of ours."""
    path.write_text(json.dumps({name: {video: _entry(each) for video, each in of.items()} for name, of in runs.items()}))


def _entry(run: Run) -> dict[str, object]:
    reported = {"scores": [each.score for each in run.reports], "statuses": [each.status.name for each in run.reports]}
    return run.measures._asdict() | {"boxes": run.boxes} | (reported if run.reports else {})

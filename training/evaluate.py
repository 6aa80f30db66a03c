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
from training.calibrate import BAD_OVERLAP, roc_area
from training.measures import Measures, is_usable, mean, measure
from training.peers import Follower, HoldStill, Mil, VitTrack
from training.sequences import Sequence as Video
from training.sequences import read_frame


class Run(NamedTuple):
    """A tracker's boxes on the frames after the first, their measures, and scores where the tracker gives them."""

    boxes: list[Box]
    scores: list[float | None]
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


def followers(loaded: LoadedModel, vittrack: Path | None) -> dict[str, Follower]:
    """All that are to be compared, by name, ours first: in float32, and with 8-bit integers where the weights have ranges."""
    name, threads = loaded.model.config.name, torch.get_num_threads()
    ours: dict[str, Follower] = {name: Ours(CompiledMixFormer(loaded.model, threads), loaded.update_rule)}
    if loaded.ranges:
        quantised = CompiledMixFormer(loaded.model, threads, ranges=loaded.ranges)
        ours[f"{name} int8"] = Ours(quantised, loaded.update_rule)
    peers: dict[str, Follower] = {"hold still": HoldStill(), "MIL": Mil()}
    return ours | peers | ({"VitTrack": VitTrack(vittrack, torch.get_num_threads())} if vittrack is not None else {})


def run(follower: Follower, video: Video) -> Run:
    """One pass; the time is the tracker's alone, without reading the frames."""
    follower.start(read_frame(video.frames[0]), video.boxes[0])
    boxes: list[Box] = []
    scores: list[float | None] = []
    seconds = 0.0
    for path in video.frames[1:]:
        frame = read_frame(path)
        began = time.perf_counter()
        boxes.append(follower.follow(frame))
        seconds += time.perf_counter() - began
        scores.append(follower.report.score if isinstance(follower, Ours) else None)
    return Run(boxes, scores, measure(boxes, video.boxes[1:], max(seconds, 1e-9)))


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


def score_area(runs: Mapping[str, Run], videos: Sequence[Video]) -> float:
    """Area under the ROC curve of "overlap below 0.2" against 1 - score, over all annotated frames after the first ones.

    NaN where the tracker gives no scores, or never or always loses its target.
    """
    hits: list[float] = []
    misses: list[float] = []
    for video in videos:
        run = runs[video.name]
        for box, score, truth in zip(run.boxes, run.scores, video.boxes[1:], strict=True):
            if score is not None and is_usable(truth):
                (misses if overlap(box, truth) < BAD_OVERLAP else hits).append(score)
    return roc_area(hits, misses)


def write_json(runs: Mapping[str, Mapping[str, Run]], path: Path) -> None:
    """The measures, boxes and scores of every run."""
    content = {
        name: {
            video: each.measures._asdict() | {"boxes": each.boxes, "scores": each.scores} for video, each in per_video.items()
        }
        for name, per_video in runs.items()
    }
    path.write_text(json.dumps(content))

"""The thresholds of a target's status and renewal, read off the tracker's own scores on annotated videos."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.config import MAX_RULE_FRAMES, UpdateRule
from model.crop import Image
from model.geometry import Box, overlap
from model.mixformer import Network
from model.target import TargetStatus, next_status
from model.tracker import Tracker
from training.shards import Record, Shards

GOOD_OVERLAP = 0.5
BAD_OVERLAP = 0.2
GOOD_CALLED_LOST = 0.01  # at most this share of good frames, or one frame: half of what is wanted, as few videos are held out
THRESHOLDS = tuple(round(0.01 * number, 2) for number in range(1, 61))  # a score above them says that the target is there


class CalibrationError(ValueError):
    """The videos say too little to fit thresholds to; the message has the numbers."""


class Shot(NamedTuple):
    """A frame and where its target is; None where the target is gone."""

    image: Image
    box: Box | None


class Sight(NamedTuple):
    """What the tracker made of a frame: its overlap with the annotation, None where the target is gone."""

    score: float
    overlap: float | None
    status: TargetStatus

    @property
    def is_good(self) -> bool:
        """The box shows the target."""
        return self.overlap is not None and self.overlap >= GOOD_OVERLAP

    @property
    def is_bad(self) -> bool:
        """The box shows something else."""
        return self.overlap is None or self.overlap < BAD_OVERLAP


@dataclass(frozen=True)
class Reliability:
    """How far the score and the status can be trusted. `frames_until_lost`: after the target is gone, one entry a video;
    the video's length where it was never noticed. `roc_area`: of "bad" against 1 - score. NaN where no box was good, or none bad."""

    roc_area: float
    good_called_lost: float
    frames_until_lost: tuple[int, ...]

    def __str__(self) -> str:
        return (
            f"area under the ROC curve {self.roc_area:.3f}, good frames called LOST {100 * self.good_called_lost:.1f} %, "
            f"frames until LOST once the target is gone: {', '.join(map(str, self.frames_until_lost))}"
        )


def videos_of(records: Iterable[Record]) -> list[list[Record]]:
    """The videos among the pictures, frames in order, with the target that their data set follows."""
    videos: dict[str, list[Record]] = {}
    for record in records:
        if record.sequence and record.boxes and not record.track:
            videos.setdefault(record.sequence, []).append(record)
    return [sorted(frames, key=lambda record: record.frame) for frames in videos.values()]


def vanishing(shards: Shards, videos: Sequence[Sequence[Record]]) -> Iterator[Iterable[Shot]]:
    """Every video, each cut after its end to the next video, where its target is not. Raises CalibrationError below two."""
    if len(videos) < 2:
        raise CalibrationError(f"{len(videos)} videos: a target can only vanish into another one")
    for frames, other in pairwise([*videos, videos[0]]):
        shown = [Shot(shards.image(record), record.boxes[0]) for record in frames]
        height, width = shown[0].image.shape[:2]
        gone = [Shot(_fitted(shards.image(record), height, width), None) for record in other]
        yield [*shown, *gone]


def watch_first_template(network: Network, rule: UpdateRule, scenes: Sequence[Iterable[Shot]]) -> list[list[Sight]]:
    """What the tracker sees in each scene with its first template alone and windows as large as its boxes say, so that no threshold
    of the rule has a part in it: what thresholds are fitted to."""
    bare = replace(rule, update_interval=MAX_RULE_FRAMES, hold_size=False)
    return [watch(network, bare, scene) for scene in scenes]


def fitted(rule: UpdateRule, scenes: Sequence[Sequence[Sight]]) -> UpdateRule:
    """The rule with thresholds that fit these scenes. Raises CalibrationError where they show no good or no bad boxes.

    A score is uncertain below the value that best parts good boxes from bad ones; above it a lost target is found. It is low below
    the same value, or below the highest that calls at most GOOD_CALLED_LOST of the good boxes LOST, or one of them, where that is
    lower. The better half of the good boxes may become templates.
    """
    sights = [sight for scene in scenes for sight in scene]
    good = np.array([sight.score for sight in sights if sight.is_good])
    bad = np.array([sight.score for sight in sights if sight.is_bad])
    if not len(good) or not len(bad):
        raise CalibrationError(f"{len(good)} good boxes and {len(bad)} bad ones: thresholds need both")
    parting = THRESHOLDS[int(np.argmax([(good >= threshold).mean() + (bad < threshold).mean() for threshold in THRESHOLDS]))]
    allowed = max(GOOD_CALLED_LOST, 1 / len(good))
    lost = max(
        each
        for each in THRESHOLDS
        if each == THRESHOLDS[0] or (each <= parting and _good_called_lost(rule, each, parting, scenes) <= allowed)
    )
    candidate = max(parting, float(np.median(good)))
    return replace(
        rule, candidate_threshold=min(0.99, round(candidate, 3)), uncertain_threshold=parting, lost_threshold=lost,
        found_threshold=parting, renew_when_uncertain=False,
    )  # fmt: skip


def _good_called_lost(rule: UpdateRule, lost: float, found: float, scenes: Sequence[Sequence[Sight]]) -> float:
    """The share of good boxes that are called LOST with these thresholds."""
    rule = replace(rule, lost_threshold=lost, found_threshold=found)
    called = [
        status is TargetStatus.LOST
        for scene in scenes
        for sight, status in zip(scene, statuses(rule, [sight.score for sight in scene]), strict=True)
        if sight.is_good
    ]
    return float(np.mean(called))


def statuses(rule: UpdateRule, scores: Iterable[float]) -> Iterator[TargetStatus]:
    """The status after every frame, from its score: the tracker's, if it tracked the same under another rule."""
    status, low_frames = TargetStatus.TRACKED, 0
    for score in scores:
        low_frames = low_frames + 1 if score < rule.lost_threshold else 0
        status = next_status(rule, status, low_frames, score)
        yield status


def left_out(
    network: Network, rule: UpdateRule, scenes: Sequence[Iterable[Shot]], seen: Sequence[Sequence[Sight]]
) -> Reliability:
    """How score and status do where every scene is judged by thresholds fitted to what was `seen` in the others."""
    watched = []
    for number, scene in enumerate(scenes):
        others = [sights for other, sights in enumerate(seen) if other != number]
        watched.append(watch(network, fitted(rule, others), scene))
    return judged(watched)


def judged(watched: Sequence[Sequence[Sight]]) -> Reliability:
    """How far score and status could be trusted in these scenes, of which each ends without its target."""
    sights = [sight for scene in watched for sight in scene]
    lost = [sight.status is TargetStatus.LOST for sight in sights if sight.is_good]
    return Reliability(
        roc_area=roc_area([s.score for s in sights if not s.is_bad], [s.score for s in sights if s.is_bad]),
        good_called_lost=float(np.mean(lost)) if lost else math.nan,
        frames_until_lost=tuple(_until_lost([sight for sight in scene if sight.overlap is None]) for scene in watched),
    )


def watch(network: Network, rule: UpdateRule, scene: Iterable[Shot]) -> list[Sight]:
    """The tracker over one scene, from its first box."""
    shots = iter(scene)
    first = next(shots)
    if first.box is None:
        raise ValueError("the first frame of a scene must show the target")
    tracker = Tracker(network, rule)
    tracker.start(first.image, first.box)
    sights = []
    for image, box in shots:
        report = tracker.track(image)
        shared = None if box is None else overlap(report.box, box)
        sights.append(Sight(report.score or 0.0, shared, report.status))
    return sights


def roc_area(higher: Sequence[float], lower: Sequence[float]) -> float:
    """The probability that one of `higher` is above one of `lower`, ties counted half: the area under the ROC curve. NaN where one is empty."""
    if not higher or not lower:
        return math.nan
    above: NDArray[np.float64] = np.subtract.outer(np.array(higher), np.array(lower))
    return float(((above > 0) + 0.5 * (above == 0)).mean())


def _until_lost(gone: Sequence[Sight]) -> int:
    return next((number for number, sight in enumerate(gone, 1) if sight.status is TargetStatus.LOST), len(gone))


def _fitted(image: Image, height: int, width: int) -> Image:
    """The picture in a frame of another size: cropped or filled up with black at the right and the bottom."""
    frame = np.zeros((height, width, 3), np.uint8)
    part = image[:height, :width]
    frame[: part.shape[0], : part.shape[1]] = part
    return frame

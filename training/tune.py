"""What the tracker's settings are worth on the annotated videos of the training data: never on those it is judged by."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
import torch

from model.checkpoint import LoadedModel
from model.compiled import CompiledMixFormer
from model.config import MAX_RULE_FRAMES
from model.crop import Image
from model.geometry import Box
from training.evaluate import Ours
from training.measures import measure
from training.shards import Record, Shards

Video = Sequence[Record]

SWEEPS = 2  # a video
FRAMES_OF_SWEEP = 20
REACH = 1.6  # widths of the target to both sides of its centre


class Trial(NamedTuple):
    """Settings of one trial; the search factor is that of the variant where it is None."""

    update_interval: int
    online_size: int
    search_factor: float | None = None
    hold_size: bool = False

    def __str__(self) -> str:
        factor = "" if self.search_factor is None else f", search factor {self.search_factor:g}"
        return (
            f"renewed every {self.update_interval} frames, {self.online_size} online templates{factor}"
            f"{', size held' if self.hold_size else ''}"
        )


class Worth(NamedTuple):
    """Mean AUC over the videos, and over their frames after something has passed in front of the target."""

    auc: float
    after_sweeps: float


TRIALS = (
    Trial(25, 1, hold_size=True), Trial(25, 1), Trial(MAX_RULE_FRAMES, 1), Trial(200, 2), Trial(25, 2), Trial(25, 3), Trial(10, 2),
    *(Trial(MAX_RULE_FRAMES, 1, factor) for factor in (3.5, 4.5, 5.0)),
)  # fmt: skip


class Scene(NamedTuple):
    """Frames and boxes; `judged` is the first of the frames that count."""

    frames: Sequence[Image]
    boxes: Sequence[Box]
    judged: int = 1


def tune(
    loaded: LoadedModel, shards: Shards, videos: Sequence[Video], trials: Iterable[Trial]
) -> Iterator[tuple[Trial, Worth]]:
    """What each trial gives in turn, the rest of the weights' rule unchanged."""
    network = CompiledMixFormer(loaded.model, torch.get_num_threads())
    config = loaded.model.config
    plain = [Scene([shards.image(record) for record in video], [record.boxes[0] for record in video]) for video in videos]
    covered = [swept(scene, plain[number - 1].frames[0], seed) for number, scene in enumerate(plain) for seed in range(SWEEPS)]
    for trial in trials:
        rule = replace(
            loaded.update_rule, update_interval=trial.update_interval, online_size=trial.online_size, hold_size=trial.hold_size
        )
        loaded.model.config = replace(config, search_factor=trial.search_factor or config.search_factor)
        follower = Ours(network, rule)
        yield trial, Worth(*(float(np.mean([_auc(follower, scene) for scene in scenes])) for scenes in (plain, covered)))


def swept(scene: Scene, other: Image, seed: int) -> Scene:
    """The scene with a bar of `other`'s pixels that passes in front of the target from one side to the other, and all of the
    frame's height, during FRAMES_OF_SWEEP frames (a third of a short video) of its second quarter and on."""
    rng = np.random.default_rng(seed)
    share, direction = rng.uniform(1.1, 1.6), rng.choice((-1, 1))
    frames, first = list(scene.frames), len(scene.frames) // 4
    count = min(FRAMES_OF_SWEEP, len(frames) // 3)
    height, width = frames[0].shape[:2]
    bar_width = max(4, int(share * scene.boxes[first].width))
    bar = cv2.resize(other[:, : max(1, other.shape[1] // 3)], (bar_width, height), interpolation=cv2.INTER_AREA)
    for number, way in enumerate(np.linspace(-REACH, REACH, count), first):
        box = scene.boxes[number]
        left = int(box.x + box.width * (0.5 + direction * way) - bar_width / 2)
        start, end = max(0, left), min(width, left + bar_width)
        frames[number] = frames[number].copy()
        frames[number][:, start : max(start, end)] = bar[:, start - left : max(start, end) - left]
    return Scene(frames, scene.boxes, first + count)


def _auc(follower: Ours, scene: Scene) -> float:
    follower.start(scene.frames[0], scene.boxes[0])
    boxes = [follower.follow(frame) for frame in scene.frames[1:]]
    return measure(boxes[scene.judged - 1 :], scene.boxes[scene.judged :], seconds=1.0).auc

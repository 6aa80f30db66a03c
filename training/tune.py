"""What the tracker's settings are worth on the annotated videos of the training data: never on those it is judged by."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from model.checkpoint import LoadedModel
from model.compiled import CompiledMixFormer
from model.config import MAX_RULE_FRAMES
from training.evaluate import Ours
from training.measures import measure
from training.shards import Record, Shards

Video = Sequence[Record]


class Trial(NamedTuple):
    """Settings of one trial; the search factor is that of the variant where it is None."""

    update_interval: int
    online_size: int
    search_factor: float | None = None

    def __str__(self) -> str:
        factor = "" if self.search_factor is None else f", search factor {self.search_factor:g}"
        return f"renewed every {self.update_interval} frames, {self.online_size} online templates{factor}"


TRIALS = (
    Trial(MAX_RULE_FRAMES, 1), Trial(200, 2), Trial(25, 1), Trial(25, 2), Trial(25, 3), Trial(10, 2),
    *(Trial(MAX_RULE_FRAMES, 1, factor) for factor in (3.5, 4.5, 5.0)),
)  # fmt: skip


def tune(
    loaded: LoadedModel, shards: Shards, videos: Sequence[Video], trials: Iterable[Trial]
) -> Iterator[tuple[Trial, float]]:
    """The mean AUC over the videos for each trial in turn, the rest of the weights' rule unchanged."""
    network = CompiledMixFormer(loaded.model, torch.get_num_threads())
    config = loaded.model.config
    for trial in trials:
        rule = replace(loaded.update_rule, update_interval=trial.update_interval, online_size=trial.online_size)
        loaded.model.config = replace(config, search_factor=trial.search_factor or config.search_factor)
        follower = Ours(network, rule)
        yield trial, float(np.mean([_auc(follower, shards, video) for video in videos]))


def _auc(follower: Ours, shards: Shards, video: Video) -> float:
    follower.start(shards.image(video[0]), video[0].boxes[0])
    boxes = [follower.follow(shards.image(record)) for record in video[1:]]
    return measure(boxes, [record.boxes[0] for record in video[1:]], seconds=1.0).auc

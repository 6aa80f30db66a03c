"""Ranges for 8-bit integers, read off the training data's videos, and how far the boxes that they give can be trusted."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from model.config import UpdateRule
from model.mixformer import MixFormer
from model.quantised import Ranges, TrackingPass, quantised
from model.target import Target
from training.shards import Record, Shards

PASSES_A_VIDEO = 5


@torch.no_grad()
def moments(model: MixFormer, shards: Shards, video: Sequence[Record]) -> Iterator[TrackingPass]:
    """PASSES_A_VIDEO frames from all over the video, each cut out where the target was in the frame before."""
    first = video[0]
    target = Target.start(model.config, UpdateRule(), shards.image(first), first.boxes[0])
    memory = model.encode(torch.from_numpy(np.stack(target.templates))[None])
    for number in np.linspace(1, len(video) - 1, PASSES_A_VIDEO, dtype=int):
        before, now = video[number - 1], video[number]
        target.relocate(before.boxes[0], now.width, now.height)
        yield TrackingPass(torch.from_numpy(target.search(shards.image(now)))[None], memory)


@torch.inference_mode()
def box_differences(model: MixFormer, ranges: Ranges, passes: Sequence[TrackingPass]) -> NDArray[np.float64]:
    """For every pass the largest difference in x, y, width or height to the float32 box, in pixels of the search crop."""
    rounding = quantised(model, ranges)
    shares = [(rounding.track(*each).boxes - model.track(*each).boxes).abs().max() for each in passes]
    return model.config.search_size * np.array(shares, dtype=np.float64)

"""Ranges for 8-bit integers, read off the training data's videos, and how far the boxes that they give can be trusted."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from model.config import UpdateRule
from model.mixformer import MixFormer, Network
from model.quantised import Ranges, TrackingPass, observe_ranges
from model.target import Target
from training.harm import harms, least_harmful
from training.shards import Record, Shards

PASSES_A_VIDEO = 5


@torch.no_grad()
def sampled_passes(model: MixFormer, shards: Shards, video: Sequence[Record]) -> Iterator[TrackingPass]:
    """PASSES_A_VIDEO frames from all over the video, each cut out where the target was in the frame before."""
    first = video[0]
    target = Target.start(model.config, UpdateRule(), shards.image(first), first.boxes[0])
    memory = model.encode(torch.from_numpy(np.stack(target.templates))[None])
    for number in np.linspace(1, len(video) - 1, PASSES_A_VIDEO, dtype=int):
        before, now = video[number - 1], video[number]
        target.relocate(before.boxes[0], now.width, now.height)
        yield TrackingPass(torch.from_numpy(target.search(shards.image(now)))[None], memory)


class Choice(NamedTuple):
    """Which layers are rounded: their ranges, of how many layers, and their share of all these layers' products."""

    ranges: Ranges
    layers: int
    share: float


def chosen_ranges(model: MixFormer, passes: Sequence[TrackingPass], judges: Sequence[TrackingPass], limit: float) -> Choice:
    """Ranges, as seen in `passes`, of the layers that together move the boxes of `judges` by at most `limit` pixels of the search crop."""
    observed = observe_ranges(model, passes)
    found = harms(model, observed, judges)
    ranges = {name: observed[name] for name in least_harmful(found, limit)}
    products = sum(found[name].products for name in ranges)
    return Choice(ranges, len(observed), products / sum(each.products for each in found.values()))


@torch.inference_mode()
def box_differences(model: MixFormer, rounding: Network, passes: Sequence[TrackingPass]) -> NDArray[np.float64]:
    """For every pass the largest difference in x, y, width or height of the two boxes, in pixels of the search crop."""
    shares = [(rounding.track(*each).boxes - model.track(*each).boxes).abs().max() for each in passes]
    return model.config.search_size * np.array(shares, dtype=np.float64)

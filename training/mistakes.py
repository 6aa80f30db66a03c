"""What the tracker looks at when it is let loose on the training videos: the score head learns from its own mistakes."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from model.config import MAX_RULE_FRAMES, UpdateRule
from model.crop import Image
from model.geometry import Box, overlap
from model.mixformer import Network
from model.tracker import Tracker
from training.calibrate import BAD_OVERLAP, GOOD_OVERLAP
from training.shards import Record

OTHERS = 3  # videos that each is cut to at its end,
FRAMES_OF_OTHERS = 12  # for so long


class Moment(NamedTuple):
    """A search region that the tracker met. `template`: the frame that it began with; `around`: its box in the frame before, in pixels
    of `searched`; `shows`: whether `searched` is of the same video; `is_right`: whether the target was found there."""

    template: Record
    searched: Record
    around: Box
    shows: bool
    is_right: bool


class Moments:
    """What was met on some videos, to be drawn from. `share`: how many examples of a training are of these."""

    def __init__(self, moments: Sequence[Moment], share: float) -> None:
        self.share = share
        parts = ([each for each in moments if each.is_right is wanted] for wanted in (True, False))
        self._kinds = [part for part in parts if part]

    def draw(self, rng: np.random.Generator) -> Moment:
        """One, as often where the tracker was wrong as where it was right, if there are both."""
        some = self._kinds[rng.integers(len(self._kinds))]
        return some[rng.integers(len(some))]


def met(network: Network, videos: Sequence[Sequence[Record]], picture: Callable[[Record], Image]) -> list[Moment]:
    """The tracker with its first template over every video, forwards and backwards, each cut to OTHERS at its end: the target is gone then.

    What is neither found (GOOD_OVERLAP) nor missed (BAD_OVERLAP) is left out. The score plays no part.
    """
    rng = np.random.default_rng(0)
    found = []
    for video in videos:
        elsewhere = [other for other in videos if other is not video]
        for frames in (video, video[::-1]):
            others = rng.permutation(len(elsewhere))[:OTHERS]
            gone = [record for number in others for record in elsewhere[number][:FRAMES_OF_OTHERS]]
            found.extend(_walk(network, frames, gone, picture))
    return found


def _walk(
    network: Network, frames: Sequence[Record], gone: Sequence[Record], picture: Callable[[Record], Image]
) -> list[Moment]:
    tracker = Tracker(network, UpdateRule(update_interval=MAX_RULE_FRAMES))
    around = tracker.start(picture(frames[0]), frames[0].boxes[0]).box
    found = []
    for number, searched in enumerate([*frames[1:], *gone], 1):
        try:
            box = tracker.track(picture(searched)).box
        except ValueError:  # a video of smaller frames, and the box is outside
            break
        shows = number < len(frames)
        shared = overlap(box, searched.boxes[0]) if shows else 0.0
        if shared < BAD_OVERLAP or shared >= GOOD_OVERLAP:
            found.append(Moment(frames[0], searched, around, shows, shared >= GOOD_OVERLAP))
        around = box
    return found

"""How well boxes follow the annotation: the measures of OTB and LaSOT. The first frame, which is given, does not count."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.geometry import Box, overlap

OVERLAP_THRESHOLDS = np.linspace(0, 1, 21)
PRECISION_PIXELS = 20.0
NORMALISED_THRESHOLD = 0.2


class Measures(NamedTuple):
    """Of one sequence, or means over several. All in [0, 1], frames per second apart.

    auc: mean share of frames whose overlap is above each of 21 thresholds from 0 to 1 (OTB)
    precision: share of frames whose centre is within 20 pixels (OTB)
    normalised_precision: share whose centre is within 0.2 of the target's own size, in x and y together (LaSOT)
    """

    auc: float
    precision: float
    normalised_precision: float
    mean_overlap: float
    frames_per_second: float


def measure(boxes: Sequence[Box], truth: Sequence[Box], seconds: float) -> Measures:
    """`boxes` and `truth` of the frames after the first. Frames without an annotation are left out."""
    annotated = [(ours, theirs) for ours, theirs in zip(boxes, truth, strict=True) if is_usable(theirs)]
    overlaps = np.array([overlap(ours, theirs) for ours, theirs in annotated])
    distances = np.array([_center_distance(ours, theirs) for ours, theirs in annotated])  # [N, 2]
    sizes = np.array([[theirs.width, theirs.height] for _, theirs in annotated])
    return Measures(
        auc=float((overlaps[:, None] > OVERLAP_THRESHOLDS).mean()),
        precision=float((np.hypot(*distances.T) <= PRECISION_PIXELS).mean()),
        normalised_precision=float((np.hypot(*(distances / sizes).T) <= NORMALISED_THRESHOLD).mean()),
        mean_overlap=float(overlaps.mean()),
        frames_per_second=len(boxes) / seconds,
    )


def mean(measures: Sequence[Measures]) -> Measures:
    """The mean over sequences, each counted once."""
    return Measures(*np.mean(np.array(measures), axis=0).tolist())


def is_usable(box: Box) -> bool:
    """Whether an annotation says where the target is."""
    return bool(np.isfinite(box).all()) and box.width > 0 and box.height > 0


def _center_distance(one: Box, other: Box) -> NDArray[np.float64]:
    return np.array([one.x + one.width / 2 - other.x - other.width / 2, one.y + one.height / 2 - other.y - other.height / 2])

"""The losses of the paper (MixFormer, section 3.4), and one more that makes corner maps learn faster."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from model.heads import Corners
from model.mixformer import to_centre

# Width of the target Gaussian on a corner map, as a share of the map's side.
CORNER_SIGMA = 0.03
SMALLEST_AREA = 1e-6


class BoxLosses(NamedTuple):
    """Parts of the box loss, each a scalar, before their weights; `overlap` is the batch's mean intersection over union."""

    l1: Tensor
    giou: Tensor
    corners: Tensor
    overlap: Tensor


def box_losses(corners: Corners, boxes: Tensor) -> BoxLosses:
    """Predicted corners against boxes [B, 4] (x1, y1, x2, y2 in shares of the crop)."""
    overlap, generalised = generalised_overlap(corners.boxes, boxes)
    maps = corner_loss(corners.top_left, boxes[:, :2]) + corner_loss(corners.bottom_right, boxes[:, 2:])
    l1 = functional.l1_loss(to_centre(corners.boxes), to_centre(boxes))
    return BoxLosses(l1, (1 - generalised).mean(), maps, overlap.mean())


def generalised_overlap(predicted: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union and its generalised form (Rezatofighi et al., CVPR 2019), each [B].

    A predicted box may be inverted, as untrained corners are: it has no area, and its hull is that of its two corners.
    """
    start, end = predicted[:, :2], predicted[:, 2:]
    shared = (torch.min(end, boxes[:, 2:]) - torch.max(start, boxes[:, :2])).clamp(min=0).prod(dim=1)
    union = (end - start).clamp(min=0).prod(dim=1) + (boxes[:, 2:] - boxes[:, :2]).prod(dim=1) - shared
    overlap = shared / union.clamp(min=SMALLEST_AREA)
    hull_start = torch.min(torch.min(start, end), boxes[:, :2])
    hull_end = torch.max(torch.max(start, end), boxes[:, 2:])
    hull = (hull_end - hull_start).prod(dim=1)
    return overlap, overlap - (hull - union) / hull.clamp(min=SMALLEST_AREA)


def corner_loss(logits: Tensor, places: Tensor) -> Tensor:
    """Cross entropy of the map [B, H, W] against a Gaussian at places [B, 2] (x, y in shares of the side)."""
    side = logits.shape[-1]
    cells = torch.arange(side, device=logits.device) / side  # where the expectation puts cell i
    width = max(CORNER_SIGMA, 0.7 / side)
    near = torch.exp(-((cells - places[:, :, None]) ** 2) / (2 * width**2))  # [B, 2, side]
    target = near[:, 1, :, None] * near[:, 0, None, :]
    target = target / target.sum(dim=(1, 2), keepdim=True).clamp(min=SMALLEST_AREA)
    log_probabilities = logits.flatten(1).log_softmax(dim=-1)
    return -(target.flatten(1) * log_probabilities).sum(dim=1).mean()


def score_labels(
    predicted: Tensor, boxes: Tensor, visible: Tensor, hit: float = 0.5, miss: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Whether the tracker's own box shows the target, [B] in {0, 1}, and which rows count, [B] bool.

    A visible target overlapped by at least `hit` is one, an absent one or an overlap below `miss` is none; between, who knows.
    """
    overlap, _ = generalised_overlap(predicted, boxes)
    overlap = torch.where(visible, overlap, 0.0)
    return (overlap >= hit).float(), (overlap >= hit) | (overlap < miss)


def score_loss(logits: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
    """Binary cross entropy over the rows that count; zero where none does."""
    losses = functional.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none")
    return (losses * counted).sum() / counted.sum().clamp(min=1)

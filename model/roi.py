"""Precise RoI pooling in plain torch."""

import torch
from torch import Tensor


def precise_roi_pool(features: Tensor, boxes: Tensor, size: int) -> Tensor:
    """The mean of the bilinear surface over each of size x size bins of one box an image.

    features [B, C, H, W]; boxes [B, 4] as x1, y1, x2, y2 in cells of the feature map -> [B, C, size, size]. The surface is
    zero outside the map; empty and inverted boxes give zeros. The bilinear surface is a sum of separable hats, so its exact
    integral is two small matrix products. Source: Jiang et al., Acquisition of Localization Confidence (ECCV 2018), section 3.2.
    """
    height, width = features.shape[-2:]
    x1, y1, x2, y2 = boxes.float().unbind(-1)
    over_x = _bin_integrals(x1, x2, size, width)  # [B, size, W]
    over_y = _bin_integrals(y1, y2, size, height)  # [B, size, H]
    integrals = torch.einsum("bih,bchw,bjw->bcij", over_y, features.float(), over_x)
    areas = ((x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0) / size**2)[:, None, None, None]
    return torch.where(areas > 0, integrals / areas.clamp(min=torch.finfo(torch.float32).tiny), 0.0).to(features.dtype)


def _bin_integrals(start: Tensor, end: Tensor, bins: int, cells: int) -> Tensor:
    """Integral of every cell's hat over every bin of [start, end]: [B, bins, cells]."""
    steps = torch.linspace(0, 1, bins + 1, device=start.device)
    edges = start[:, None] + (end - start)[:, None] * steps  # [B, bins + 1]
    offsets = (edges[:, :, None] - torch.arange(cells, device=start.device)).clamp(-1, 1)
    cumulative = 0.5 + offsets - 0.5 * offsets * offsets.abs()  # integral of the hat from -1 to the offset
    return cumulative[:, 1:] - cumulative[:, :-1]

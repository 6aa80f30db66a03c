"""Precise RoI pooling in plain torch."""

import torch
from torch import Tensor


def precise_roi_pool(features: Tensor, boxes: Tensor, size: int) -> Tensor:
    """The mean of the bilinear surface over each of size x size bins of one box an image.

    features [B, C, H, W]; boxes [B, 4] as x1, y1, x2, y2 in cells of the feature map -> [B, C, size, size]. The surface is
    zero outside the map; empty and inverted boxes give zeros. The bilinear surface is a sum of separable hats, so its exact
    mean is two small matrix products. Source: Jiang et al., Acquisition of Localization Confidence (ECCV 2018), section 3.2.
    """
    height, width = features.shape[-2:]
    x1, y1, x2, y2 = boxes.double().unbind(-1)  # bins far below a cell are differences of nearly equal numbers
    over_x = _bin_integrals(x1, x2, size, width)  # [B, size, W]
    over_y = _bin_integrals(y1, y2, size, height)  # [B, size, H]
    bins = torch.stack([(x2 - x1) / size, (y2 - y1) / size])  # [2, B], sides of a bin
    shares = torch.where((bins > 0).all(dim=0), 1 / bins.clamp(min=torch.finfo(torch.float32).tiny), 0.0)
    mean_x, mean_y = (over_x * shares[0, :, None, None]).float(), (over_y * shares[1, :, None, None]).float()
    with torch.autocast(features.device.type, enabled=False):  # under which it would multiply in half precision
        return torch.einsum("bih,bchw,bjw->bcij", mean_y, features.float(), mean_x).to(features.dtype)


def _bin_integrals(start: Tensor, end: Tensor, bins: int, cells: int) -> Tensor:
    """Integral of every cell's hat over every bin of [start, end]: [B, bins, cells]."""
    steps = torch.linspace(0, 1, bins + 1, device=start.device, dtype=start.dtype)
    edges = start[:, None] + (end - start)[:, None] * steps  # [B, bins + 1]
    offsets = (edges[:, :, None] - torch.arange(cells, device=start.device)).clamp(-1, 1)
    cumulative = 0.5 + offsets - 0.5 * offsets * offsets.abs()  # integral of the hat from -1 to the offset
    return cumulative[:, 1:] - cumulative[:, :-1]

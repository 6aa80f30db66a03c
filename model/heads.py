"""The corner heads, which give the box, and the score head, which says whether the target is there."""

from itertools import pairwise
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from model.config import CornerHeadKind, ModelConfig
from model.layers import ConvNorm
from model.roi import precise_roi_pool

POOL_SIZE = 4


class Corners(NamedTuple):
    """boxes [B, 4]: x1, y1, x2, y2 in shares of the crop. top_left, bottom_right: logits [B, H, W] over the corner's cell."""

    boxes: Tensor
    top_left: Tensor
    bottom_right: Tensor


class CornerHead(nn.Module):
    """A probability map for each of two corners; a corner is the map's expectation (MixFormer, section 3.2).

    Source: `Corner_Predictor` and `Pyramid_Corner_Predictor` of lib/models/mixformer_*/head.py.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        branch = PlainBranch if config.head is CornerHeadKind.PLAIN else PyramidBranch
        self.top_left = branch(config.dim, config.head_channels)
        self.bottom_right = branch(config.dim, config.head_channels)

    def forward(self, features: Tensor) -> Corners:
        """features [B, C, H, W] -> boxes in [0, 1) and the maps they come from, all float32."""
        top_left = self.top_left(features)[:, 0].float()
        bottom_right = self.bottom_right(features)[:, 0].float()
        return Corners(torch.cat([expectation(top_left), expectation(bottom_right)], dim=-1), top_left, bottom_right)


def expectation(logits: Tensor) -> Tensor:
    """Expected position (x, y) in shares of the side under the softmax of [B, H, W] logits: cell i stands at i / side -> [B, 2]."""
    side = logits.shape[-1]
    probabilities = rearrange(logits, "b h w -> b (h w)").softmax(dim=-1)
    probabilities = rearrange(probabilities, "b (h w) -> b h w", w=side)
    places = torch.arange(side, device=logits.device, dtype=logits.dtype) / side
    return torch.stack([(probabilities.sum(dim=1) * places).sum(-1), (probabilities.sum(dim=2) * places).sum(-1)], dim=-1)


class PlainBranch(nn.Module):
    """Four convolutions of halving width, and one logit a cell of the features."""

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        widths = [dim, channels, channels // 2, channels // 4, channels // 8]
        self.layers = nn.ModuleList(ConvNorm(a, b) for a, b in pairwise(widths))
        self.logit = nn.Conv2d(widths[-1], 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, 1, H, W]."""
        for layer in self.layers:
            features = functional.relu(layer(features))
        logits: Tensor = self.logit(features)
        return logits


class PyramidBranch(nn.Module):
    """The plain branch, upsampled by two before its third and fourth layer, with four paths that add the coarser maps again."""

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        half, quarter, eighth = channels // 2, channels // 4, channels // 8
        self.layers = nn.ModuleList(
            ConvNorm(a, b) for a, b in ((dim, channels), (channels, half), (half, quarter), (quarter, eighth))
        )
        self.logit = nn.Conv2d(eighth, 1, 1)
        self.features_to_half = ConvPath(dim, half)
        self.features_to_quarter = ConvPath(dim, quarter)
        self.half_to_logit = ConvPath(half, quarter, eighth, 1)
        self.quarter_to_logit = ConvPath(quarter, eighth, 1)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, 1, 4 H, 4 W]."""
        first = functional.relu(self.layers[0](features))
        half = functional.relu(self.layers[1](first))
        up = enlarge(half, 2) + enlarge(self.features_to_half(features), 2)
        quarter = functional.relu(self.layers[2](up))
        up = enlarge(quarter, 2) + enlarge(self.features_to_quarter(features), 4)
        last = functional.relu(self.layers[3](up))
        logits: Tensor = self.logit(last) + enlarge(self.half_to_logit(half), 4) + enlarge(self.quarter_to_logit(quarter), 2)
        return logits


class ConvPath(nn.Module):
    """Convolutions with BatchNorm and ReLU, through the given widths."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ConvNorm(a, b) for a, b in pairwise(widths))

    def forward(self, maps: Tensor) -> Tensor:
        """[B, first width, H, W] -> [B, last width, H, W]."""
        for layer in self.layers:
            maps = functional.relu(layer(maps))
        return maps


def enlarge(maps: Tensor, factor: int) -> Tensor:
    """Every cell repeated factor x factor times."""
    return functional.interpolate(maps, scale_factor=factor, mode="nearest")


class ScoreHead(nn.Module):
    """The score prediction module (MixFormer, section 3.3): is the target inside this box?

    A learned token attends to the search features inside the box, then to the template's tokens; no residual around either.
    The softmax scale is the whole width ** -0.5. Source: `ScoreDecoder` of lib/models/mixformer_*/score_decoder.py.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        nn.init.trunc_normal_(self.token, std=0.02)
        self.norm = nn.LayerNorm(dim)
        self.reads = nn.ModuleList(TokenRead(dim, heads) for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1))

    def forward(self, features: Tensor, template_tokens: Tensor, boxes: Tensor) -> Tensor:
        """features [B, C, H, W], template_tokens [B, N, C], boxes [B, 4] (x1, y1, x2, y2 in shares of the crop) -> logits [B]."""
        pooled = rearrange(precise_roi_pool(features, boxes * features.shape[-1], POOL_SIZE), "b c h w -> b (h w) c")
        token = self.norm(self.token).expand(features.shape[0], -1, -1)
        for read, memory in zip(self.reads, (pooled, template_tokens), strict=True):
            token = read(token, memory)
        logits: Tensor = self.mlp(token)[:, 0, 0]
        return logits


class TokenRead(nn.Module):
    """One attention of the score token over a set of tokens."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = dim**-0.5
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, token: Tensor, memory: Tensor) -> Tensor:
        """token [B, 1, C], memory [B, N, C] -> token [B, 1, C]."""
        queries, keys, values = (
            rearrange(x, "b n (heads width) -> b heads n width", heads=self.heads)
            for x in (self.q(token), self.k(memory), self.v(memory))
        )
        read = functional.scaled_dot_product_attention(queries, keys, values, scale=self.scale)
        token = self.norm(self.out(rearrange(read, "b heads n width -> b n (heads width)")))
        return token

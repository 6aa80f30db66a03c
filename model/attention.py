"""Asymmetric mixed attention (MixFormer, section 3.1), once for both passes.

Tokens attend to their own keys and, where a memory is given, to the memory's too. Template tokens are given none, so they
never depend on the search region; search tokens are given the templates' keys and values. Everything a later frame needs
of the templates is therefore the pair this module returns.
"""

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from model.config import Family, StageConfig
from model.layers import ConvNorm, Grid, to_maps, to_tokens


class KeyValue(NamedTuple):
    """Keys and values after their Linear, each [B, heads, tokens, head width]."""

    keys: Tensor
    values: Tensor


class MixedAttention(nn.Module):
    """Attention of a block. The softmax scale is the block's whole width ** -0.5 in MixCvT, the head width ** -0.5 in MixViT.

    Source: `Attention` of lib/models/mixformer_cvt/mixformer_online.py and lib/models/mixformer_vit/mixformer_online.py.
    """

    def __init__(self, stage: StageConfig, family: Family) -> None:
        super().__init__()
        self.heads = stage.heads
        self.scale = stage.dim**-0.5 if family is Family.MIXCVT else (stage.dim // stage.heads) ** -0.5
        self.project = ConvolutionalProjection(stage.dim) if family is Family.MIXCVT else LinearProjection(stage.dim)
        self.out = nn.Linear(stage.dim, stage.dim)

    def forward(self, tokens: Tensor, grid: Grid, memory: KeyValue | None) -> tuple[Tensor, KeyValue]:
        """tokens [B, N, C] -> attended tokens [B, N, C], and the tokens' own keys and values (the memory not included)."""
        queries, keys, values = (
            rearrange(x, "b n (heads width) -> b heads n width", heads=self.heads) for x in self.project(tokens, grid)
        )
        own = KeyValue(keys, values)
        if memory is not None:
            keys = torch.cat([memory.keys, keys], dim=2)
            values = torch.cat([memory.values, values], dim=2)
        attended = functional.scaled_dot_product_attention(queries, keys, values, scale=self.scale)
        return self.out(rearrange(attended, "b heads n width -> b n (heads width)")), own


class LinearProjection(nn.Module):
    """q, k and v by one Linear (MixViT)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)

    def forward(self, tokens: Tensor, grid: Grid) -> tuple[Tensor, ...]:
        """tokens [B, N, C] -> q, k, v, each [B, N, C]."""
        joined: Tensor = self.qkv(tokens)
        return joined.chunk(3, dim=-1)


class ConvolutionalProjection(nn.Module):
    """q, k and v each by a depthwise convolution on its own image's grid, then a Linear (MixCvT); k and v at stride 2."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.q_conv = ConvNorm(dim, dim, groups=dim, bias=False)
        self.k_conv = ConvNorm(dim, dim, stride=2, groups=dim, bias=False)
        self.v_conv = ConvNorm(dim, dim, stride=2, groups=dim, bias=False)
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, grid: Grid) -> tuple[Tensor, ...]:
        """tokens [B, images * side**2, C] -> q of as many tokens; k, v [B, images * ceil(side / 2)**2, C]."""
        maps = to_maps(tokens, grid)
        projections = ((self.q_conv, self.q), (self.k_conv, self.k), (self.v_conv, self.v))
        return tuple(linear(to_tokens(conv(maps), grid.images)) for conv, linear in projections)

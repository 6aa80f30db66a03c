"""MixCvT's two-step pass as the original runs it, to measure against: the baseline of `speedup.py`.

Source: `Attention.forward_test`, `Mlp` and `ConvEmbed` of lib/models/mixformer_cvt/mixformer_online.py. What makes it slower is kept:
templates are remembered before their Linear and projected again with every frame, attention maps are written out, BatchNorm
is a step of its own, maps are turned to channels first and back, and nothing is computed in place.
"""

from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from einops import rearrange
from torch import Tensor

from model.attention import ConvolutionalProjection, MixedAttention
from model.backbone import Block, PatchEmbed, Stage
from model.mixformer import MixFormer, Prediction, to_centre


class Remembered(NamedTuple):
    """What a block keeps of its templates: outputs of the key and value convolutions, [B, tokens, C] each."""

    keys: Tensor
    values: Tensor


class OriginalMemory(NamedTuple):
    """What the original keeps of a target: every block's maps, and the original template's last tokens [B, N, C]."""

    blocks: list[Remembered]
    template_tokens: Tensor


def remember(model: MixFormer, crops: Tensor) -> OriginalMemory:
    """Template crops uint8 [1, 1 + K, T, T, 3] -> what the original keeps of them."""
    images = crops.shape[1]
    maps = rearrange(model.normalise(crops), "b n c h w -> (b n) c h w")
    kept = []
    for stage in _stages(model):
        tokens, grid = stage.patch_embed(maps, images)
        for block in _blocks(stage):
            normed = rearrange(block.norm1(tokens), "b (n h w) c -> (b n) c h w", n=images, h=grid.side)
            project = _project(block.attention)
            both = (conv(normed) for conv in (project.k_conv, project.v_conv))
            kept.append(Remembered(*(rearrange(each, "(b n) c h w -> b (n h w) c", n=images) for each in both)))
            tokens, _ = block(tokens, grid, None)
        maps = rearrange(tokens, "b (n h w) c -> (b n) c h w", n=images, h=grid.side)
    return OriginalMemory(kept, rearrange(maps, "(b n) c h w -> b n (h w) c", n=images)[:, 0])


def track(model: MixFormer, crops: Tensor, memory: OriginalMemory) -> Prediction:
    """Search crops uint8 [1, S, S, 3] -> the same boxes and scores as `MixFormer.track`, in the original's way."""
    remembered = iter(memory.blocks)
    maps = model.normalise(crops).contiguous()
    for stage in _stages(model):
        tokens, side = _embed(stage.patch_embed, maps)
        for block in _blocks(stage):
            tokens = _block(block, tokens, side, next(remembered))
        maps = rearrange(tokens, "b (h w) c -> b c h w", h=side).contiguous()
    boxes = model.box_head(maps).boxes
    scores = None if model.score_head is None else model.score(maps, memory.template_tokens, boxes).sigmoid()
    return Prediction(to_centre(boxes), scores)


def _stages(model: MixFormer) -> Iterator[Stage]:
    return cast(Iterator[Stage], iter(model.backbone.stages))


def _blocks(stage: Stage) -> Iterator[Block]:
    return cast(Iterator[Block], iter(stage.blocks))


def _embed(embed: PatchEmbed, maps: Tensor) -> tuple[Tensor, int]:
    maps = embed.proj(maps)
    return embed.norm(rearrange(maps, "b c h w -> b (h w) c").contiguous()), maps.shape[-1]


def _block(block: Block, tokens: Tensor, side: int, remembered: Remembered) -> Tensor:
    tokens = tokens + _attend(block.attention, block.norm1(tokens), side, remembered)
    widen, _, narrow = block.mlp
    hidden = widen(block.norm2(tokens))
    return tokens + narrow(hidden * torch.sigmoid(1.702 * hidden))  # type: ignore[no-any-return]


def _attend(attention: MixedAttention, tokens: Tensor, side: int, remembered: Remembered) -> Tensor:
    project = _project(attention)
    maps = rearrange(tokens, "b (h w) c -> b c h w", h=side).contiguous()
    own = (
        rearrange(conv(maps), "b c h w -> b (h w) c").contiguous() for conv in (project.q_conv, project.k_conv, project.v_conv)
    )
    queries, keys, values = own
    projected = (
        project.q(queries),
        project.k(torch.cat([remembered.keys, keys], dim=1)),
        project.v(torch.cat([remembered.values, values], dim=1)),
    )
    q, k, v = (rearrange(x, "b n (heads width) -> b heads n width", heads=attention.heads).contiguous() for x in projected)
    weights = (torch.einsum("bhlk,bhtk->bhlt", q, k) * attention.scale).softmax(dim=-1)
    attended = torch.einsum("bhlt,bhtv->bhlv", weights, v)
    return attention.out(rearrange(attended, "b heads n width -> b n (heads width)"))  # type: ignore[no-any-return]


def _project(attention: MixedAttention) -> ConvolutionalProjection:
    assert isinstance(attention.project, ConvolutionalProjection), "the baseline is MixCvT's"
    return attention.project

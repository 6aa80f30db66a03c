"""The backbone: patch embeddings and mixed-attention blocks, run once a template change and once a frame.

`encode` gives the memory of the templates; `forward` runs the search region against it. One after the other they are the
original's joint pass, for template tokens never depend on the search region. No module remembers anything.
"""

from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from model.attention import KeyValue, MixedAttention
from model.config import Family, ModelConfig, StageConfig
from model.layers import Grid, to_maps, to_tokens
from model.memory import TemplateMemory

MLP_RATIO = 4
IMAGE_CHANNELS = 3


class Backbone(nn.Module):
    """All stages. Source: `ConvolutionalVisionTransformer` / `VisionTransformer` of lib/models/mixformer_*."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dims_in = [IMAGE_CHANNELS] + [stage.dim for stage in config.stages[:-1]]
        self.stages = nn.ModuleList(
            Stage(dim_in, stage, config.family) for dim_in, stage in zip(dims_in, config.stages, strict=True)
        )
        self.template_positions = self._positions(config, config.template_size)
        self.search_positions = self._positions(config, config.search_size)

    @staticmethod
    def _positions(config: ModelConfig, size: int) -> nn.Parameter | None:
        if config.family is Family.MIXCVT:
            return None
        return nn.Parameter(position_table(config.dim, size // config.stride))

    def encode(self, templates: Tensor) -> TemplateMemory:
        """templates [B, 1 + K, 3, T, T], normalised, the first one the original template -> their memory."""
        images = templates.shape[1]
        maps = rearrange(templates, "b n c h w -> (b n) c h w")
        layers: list[KeyValue] = []
        for stage in self.stages:
            maps, own = stage(maps, images, self.template_positions, None)
            layers.extend(own)
        first = rearrange(maps, "(b n) c h w -> b n (h w) c", n=images)[:, 0]
        return TemplateMemory(tuple(layers), first, images - 1)

    def forward(self, search: Tensor, memory: TemplateMemory, mark: Callable[[str], None]) -> Tensor:
        """search [B, 3, S, S], normalised -> features [B, C, S / stride, S / stride]; `mark(name)` after each of several stages."""
        maps = search
        layers = list(memory.layers)
        for number, stage in enumerate(self.stages):
            maps, own = stage(maps, 1, self.search_positions, layers)
            del layers[: len(own)]
            if len(self.stages) > 1:
                mark(f"stage{number}")
        mark("backbone")
        return maps


class Stage(nn.Module):
    """A patch embedding and its blocks."""

    def __init__(self, dim_in: int, config: StageConfig, family: Family) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(dim_in, config, family)
        self.blocks = nn.ModuleList(Block(config, family) for _ in range(config.depth))

    def forward(
        self, maps: Tensor, images: int, positions: Tensor | None, memory: Sequence[KeyValue] | None
    ) -> tuple[Tensor, list[KeyValue]]:
        """maps [B * images, C in, H, W] -> maps [B * images, C, H', W'] and each block's own keys and values.

        `memory` begins with this stage's blocks; None for the templates themselves.
        """
        tokens, grid = self.patch_embed(maps, images)
        if positions is not None:
            tokens = tokens + positions.repeat(1, images, 1)
        layers = []
        for number, block in enumerate(self.blocks):
            tokens, own = block(tokens, grid, None if memory is None else memory[number])
            layers.append(own)
        return to_maps(tokens, grid), layers


class PatchEmbed(nn.Module):
    """A strided convolution; in MixCvT a LayerNorm over channels follows."""

    def __init__(self, dim_in: int, config: StageConfig, family: Family) -> None:
        super().__init__()
        self.proj = nn.Conv2d(dim_in, config.dim, config.patch_kernel, config.patch_stride, config.patch_padding)
        self.norm = nn.LayerNorm(config.dim, eps=1e-5) if family is Family.MIXCVT else nn.Identity()

    def forward(self, maps: Tensor, images: int) -> tuple[Tensor, Grid]:
        """maps [B * images, C in, H, W] -> tokens [B, images * H' * W', C] and their grid."""
        maps = self.proj(maps)
        return self.norm(to_tokens(maps, images)), Grid(images, maps.shape[-1])


class Block(nn.Module):
    """Attention and MLP, each normalised before and added to its input."""

    def __init__(self, config: StageConfig, family: Family) -> None:
        super().__init__()
        eps = 1e-5 if family is Family.MIXCVT else 1e-6
        self.norm1 = nn.LayerNorm(config.dim, eps=eps)
        self.attention = MixedAttention(config, family)
        self.norm2 = nn.LayerNorm(config.dim, eps=eps)
        self.mlp = nn.Sequential(
            nn.Linear(config.dim, MLP_RATIO * config.dim),
            QuickGELU() if family is Family.MIXCVT else nn.GELU(),
            nn.Linear(MLP_RATIO * config.dim, config.dim),
        )

    def forward(self, tokens: Tensor, grid: Grid, memory: KeyValue | None) -> tuple[Tensor, KeyValue]:
        """tokens [B, N, C] -> tokens [B, N, C] and their own keys and values."""
        attended, own = self.attention(self.norm1(tokens), grid, memory)
        tokens = tokens + attended
        return tokens + self.mlp(self.norm2(tokens)), own


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the GELU that CvT was trained with: silu(1.702 x) / 1.702."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape. Works in the memory of `x`, the largest tensor of a block: fresh memory costs more than the arithmetic."""
        return functional.silu(x.mul_(1.702), inplace=True).div_(1.702)


def position_table(dim: int, side: int) -> Tensor:
    """The fixed sine-cosine table of a side x side grid, [1, side * side, dim]: half the channels for each axis, sines first."""
    omega = 1.0 / 10000 ** (torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * omega[None, :]
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)  # [side, dim / 2]
    across = axis[None, :, :].expand(side, side, -1)
    down = axis[:, None, :].expand(side, side, -1)
    return rearrange(torch.cat([across, down], dim=-1), "h w c -> 1 (h w) c").float()

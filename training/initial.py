"""Where a training starts from: an ImageNet ViT under timm's names, and position tables for crops of another size."""

from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from model.config import ModelConfig
from model.mixformer import IMAGENET_MEAN, IMAGENET_STD, MixFormer

# The ImageNet network wants inputs of mean 0.5 and deviation 0.5; ours are normalised by the ImageNet statistics.
_VIT_MEAN = 0.5
_VIT_STD = 0.5
_RENAMED = {
    "norm1": "norm1", "norm2": "norm2", "attn.qkv": "attention.project.qkv", "attn.proj": "attention.out",
    "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2",
}  # fmt: skip


def load_vit(model: MixFormer, path: Path) -> None:
    """Put a timm ViT/16 of the model's width and depth into its backbone. Heads stay as they are.

    Raises KeyError or RuntimeError where the file is another network's.
    """
    vit: dict[str, Tensor] = {name: tensor.float() for name, tensor in torch.load(path, weights_only=True).items()}
    state = model.state_dict()
    weight, bias = vit["patch_embed.proj.weight"], vit["patch_embed.proj.bias"]
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    scale, shift = std / _VIT_STD, (mean - _VIT_MEAN) / _VIT_STD
    state["backbone.stages.0.patch_embed.proj.weight"] = weight * scale
    state["backbone.stages.0.patch_embed.proj.bias"] = bias + (weight * shift).sum(dim=(1, 2, 3))
    for block in range(model.config.stages[0].depth):
        for theirs, ours in _RENAMED.items():
            for kind in ("weight", "bias"):
                state[f"backbone.stages.0.blocks.{block}.{ours}.{kind}"] = vit[f"blocks.{block}.{theirs}.{kind}"]
    table = vit["pos_embed"][:, 1:]  # without the class token's
    for name, size in (("template", model.config.template_size), ("search", model.config.search_size)):
        state[f"backbone.{name}_positions"] = resized_table(table, size // model.config.stride)
    model.load_state_dict(state)


def resized_table(table: Tensor, side: int) -> Tensor:
    """A position table [1, n * n, C] for a grid of side * side, by bicubic interpolation."""
    before = round(table.shape[1] ** 0.5)
    maps = rearrange(table, "1 (h w) c -> 1 c h w", h=before)
    resized = functional.interpolate(maps, size=(side, side), mode="bicubic", align_corners=False)
    return rearrange(resized, "1 c h w -> 1 (h w) c")


def at_sizes(model: MixFormer, config: ModelConfig) -> MixFormer:
    """The same weights for crops of the config's sizes."""
    other = MixFormer(config)
    state = model.state_dict()
    for name, size in (("template", config.template_size), ("search", config.search_size)):
        key = f"backbone.{name}_positions"
        if key in state:
            state[key] = resized_table(state[key], size // config.stride)
    other.load_state_dict(state)
    return other

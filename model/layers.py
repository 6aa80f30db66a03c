"""Layers that more than one room needs."""

from typing import NamedTuple, cast

from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

BATCH_NORM_EPS = 1e-5


class Grid(NamedTuple):
    """How tokens lie: `images` square grids of `side` cells, one behind the other."""

    images: int
    side: int


def to_maps(tokens: Tensor, grid: Grid) -> Tensor:
    """tokens [B, images * side**2, C] -> maps [B * images, C, side, side], without a copy: tokens are maps with channels last.

    In two steps, because a convolution knows channels last by its strides, and one step leaves odd ones where B is 1.
    """
    cells = rearrange(tokens, "b (n h w) c -> (b n) h w c", n=grid.images, h=grid.side)
    return rearrange(cells, "b h w c -> b c h w")


def to_tokens(maps: Tensor, images: int) -> Tensor:
    """maps [B * images, C, H, W] -> tokens [B, images * H * W, C]; a view where the maps lie channels last."""
    return rearrange(maps, "(b n) c h w -> b (n h w) c", n=images)


class ConvNorm(nn.Module):
    """A convolution without border loss (padding half the kernel) and its BatchNorm; `fold` makes the two one convolution."""

    def __init__(self, dim_in: int, dim_out: int, *, stride: int = 1, groups: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim_in, dim_out, 3, stride=stride, padding=1, groups=groups, bias=bias)
        self.norm: nn.Module = nn.BatchNorm2d(dim_out, eps=BATCH_NORM_EPS)

    def forward(self, maps: Tensor) -> Tensor:
        """maps [B, C in, H, W] -> [B, C out, ceil(H / stride), ceil(W / stride)]."""
        return cast(Tensor, self.norm(self.conv(maps)))

    def fold(self) -> None:
        """Put the frozen statistics into the convolution: a BatchNorm in inference is one affine map a channel."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv.eval(), self.norm.eval())
            self.norm = nn.Identity()


def fold_batch_norms(module: nn.Module) -> None:
    """Fold every ConvNorm inside `module`, in place. For inference only."""
    for part in module.modules():
        if isinstance(part, ConvNorm):
            part.fold()

"""Layers that more than one room needs."""

from typing import cast

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

BATCH_NORM_EPS = 1e-5


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

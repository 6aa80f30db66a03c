"""Every variant of the network and the rule that renews its templates, as values. Imports nothing heavy."""

from dataclasses import dataclass, fields, replace
from enum import StrEnum

MAX_ONLINE_TEMPLATES = 5
# Four years at 30 frames/s: "never" for a rule, and a number that every message can hold.
MAX_RULE_FRAMES = 2**32 - 1


class Family(StrEnum):
    """`MIXCVT`: q, k and v behind depthwise convolutions. `MIXVIT`: q, k and v of one Linear, positions from tables."""

    MIXCVT = "mixcvt"
    MIXVIT = "mixvit"


class CornerHeadKind(StrEnum):
    """`PLAIN`: one map at the stride of the features. `PYRAMID`: upsampled twice, at a quarter of that stride."""

    PLAIN = "plain"
    PYRAMID = "pyramid"


@dataclass(frozen=True)
class StageConfig:
    """One stage: a patch embedding and `depth` blocks of equal width."""

    dim: int
    heads: int
    depth: int
    patch_kernel: int
    patch_stride: int
    patch_padding: int


@dataclass(frozen=True)
class ModelConfig:
    """A variant of MixFormer. Sizes are the sides of the square crops, in pixels."""

    name: str
    family: Family
    stages: tuple[StageConfig, ...]
    template_size: int
    search_size: int
    template_factor: float
    search_factor: float
    head: CornerHeadKind
    head_channels: int
    has_score_head: bool

    @property
    def stride(self) -> int:
        """Pixels of the crop per cell of the last stage's grid."""
        product = 1
        for stage in self.stages:
            product *= stage.patch_stride
        return product

    @property
    def dim(self) -> int:
        """Channels of the last stage."""
        return self.stages[-1].dim

    def with_sizes(self, template_size: int, search_size: int) -> "ModelConfig":
        """The same network for crops of other sizes (training starts small)."""
        return replace(self, template_size=template_size, search_size=search_size)


@dataclass(frozen=True)
class UpdateRule:
    """When a target's online templates are renewed, and what its score means. Travels with our weights.

    The defaults are the original's rule (MixFormer, section 3.3; parameters of its LaSOT run): a candidate template is cut
    at a frame whose score is above `candidate_threshold` and above the best since the last renewal (which decays by
    `score_decay` a frame), and every `update_interval` frames it joins the `online_size` online templates.

    Status: a score below `uncertain_threshold` is UNCERTAIN, `lost_after` frames in a row below `lost_threshold` are LOST,
    and a lost target is TRACKED again only above `found_threshold`. With `hold_size`, which the original does not have, the
    search window keeps the size that goes with the last TRACKED box until the target is TRACKED again.
    """

    update_interval: int = 200
    online_size: int = 2
    candidate_threshold: float = 0.5
    score_decay: float = 1.0
    renew_when_uncertain: bool = True
    uncertain_threshold: float = 0.5
    lost_threshold: float = 0.25
    found_threshold: float = 0.5
    lost_after: int = 5
    hold_size: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
                raise ValueError(f"{field.name} {value!r} is no {kind.__name__}")
            if isinstance(value, float) and not 0.0 <= value <= 1.0:
                raise ValueError(f"{field.name} {value:g} is outside 0 to 1")
        for name, frames in (("update_interval", self.update_interval), ("lost_after", self.lost_after)):
            if not 1 <= frames <= MAX_RULE_FRAMES:
                raise ValueError(f"{name} {frames} is outside 1 to {MAX_RULE_FRAMES}")
        if not 1 <= self.online_size <= MAX_ONLINE_TEMPLATES:
            raise ValueError(f"online_size {self.online_size} is outside 1 to {MAX_ONLINE_TEMPLATES}")


def _convolutional(
    dims: tuple[int, int, int], heads: tuple[int, int, int], depths: tuple[int, int, int]
) -> tuple[StageConfig, ...]:
    embeddings = ((7, 4, 2), (3, 2, 1), (3, 2, 1))
    values = zip(dims, heads, depths, embeddings, strict=True)
    return tuple(StageConfig(dim, count, depth, *patch) for dim, count, depth, patch in values)


def _mixcvt(name: str, stages: tuple[StageConfig, ...], *, score: bool) -> ModelConfig:
    return ModelConfig(
        name=name, family=Family.MIXCVT, stages=stages, template_size=128, search_size=320, template_factor=2.0,
        search_factor=5.0, head=CornerHeadKind.PLAIN, head_channels=384, has_score_head=score,
    )  # fmt: skip


def _mixvit(name: str, dim: int, depth: int, heads: int, template: int, search: int, head_channels: int = 384) -> ModelConfig:
    return ModelConfig(
        name=name, family=Family.MIXVIT, stages=(StageConfig(dim, heads, depth, 16, 16, 0),), template_size=template,
        search_size=search, template_factor=2.0, search_factor=4.5, head=CornerHeadKind.PYRAMID, head_channels=head_channels,
        has_score_head=True,
    )  # fmt: skip


_CVT_BASE = _convolutional((64, 192, 384), (1, 3, 6), (1, 4, 16))
_CVT_LARGE = _convolutional((192, 768, 1024), (3, 12, 16), (2, 2, 12))
_CVT_SMALL = _convolutional((48, 96, 192), (1, 2, 3), (1, 2, 6))

_VIT_TINY = _mixvit("mixvit_tiny", 192, 12, 3, template=128, search=256, head_channels=128)
# Of our own: crops, features and heads as those of MixViT-tiny, which teaches it.
_SMALL = replace(_VIT_TINY, name="mixcvt_small", family=Family.MIXCVT, stages=_CVT_SMALL)

VARIANTS: dict[str, ModelConfig] = {
    config.name: config
    for config in (
        _mixcvt("mixcvt_base", _CVT_BASE, score=True),
        _mixcvt("mixcvt_base_offline", _CVT_BASE, score=False),
        _mixcvt("mixcvt_large", _CVT_LARGE, score=True),
        _mixcvt("mixcvt_large_offline", _CVT_LARGE, score=False),
        _SMALL,
        _mixvit("mixvit_base", 768, 12, 12, template=128, search=288),
        _mixvit("mixvit_large", 1024, 24, 16, template=192, search=384),
        _VIT_TINY,
    )
}

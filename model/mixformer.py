"""MixFormer: what was the target, where is it now, and is it there at all.

Two passes serve a stream: `encode` once a template change, `track` once a frame. `forward` is both, differentiable, for training.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from einops import rearrange
from torch import Tensor, nn

from model.attention import KeyValue
from model.backbone import Backbone
from model.config import ModelConfig
from model.heads import CornerHead, Corners, ScoreHead
from model.memory import TemplateMemory

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Prediction(NamedTuple):
    """boxes [B, 4]: centre x, centre y, width, height in shares of the crop's side. scores [B] in [0, 1], None without score head."""

    boxes: Tensor
    scores: Tensor | None


class JointOutput(NamedTuple):
    """Boxes and corner maps, with the search features [B, C, H, W] and template tokens [B, N, C] that the score head reads."""

    corners: Corners
    features: Tensor
    template_tokens: Tensor


def ignore_mark(name: str) -> None:
    """For a caller of `track` who measures nothing."""


class Network(Protocol):
    """What a tracker needs of a network, however it is run. `precision`: of its products. `device`: where its tensors lie."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def precision(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    def encode(self, crops: Tensor) -> TemplateMemory:
        """crops uint8 [B, 1 + K, T, T, 3], the original template first -> the memory that `track` reads."""

    def track(self, crops: Tensor, memory: TemplateMemory, mark: Callable[[str], None] = ignore_mark) -> Prediction:
        """crops uint8 [B, S, S, 3], memory of the same B targets -> where and how sure."""


class MixFormer(nn.Module):
    """The network of one variant. Crops are square, uint8 RGB, height x width x channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.precision = torch.float32
        self.backbone = Backbone(config)
        self.box_head = CornerHead(config)
        self.score_head = ScoreHead(config.dim, config.stages[-1].heads) if config.has_score_head else None
        self.register_buffer("mean", 255 * torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", 255 * torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)
        # As tokens and crops lie: no convolution turns its weights or maps.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.mean.device

    def set_precision(self, dtype: torch.dtype) -> None:
        """Compute in `dtype`. Normalisation, corner expectations and precise RoI pooling stay in float32."""
        self.precision = dtype
        for part in self.children():
            part.to(dtype)

    def normalise(self, crops: Tensor) -> Tensor:
        """uint8 [..., S, S, 3] -> [..., 3, S, S] of ImageNet statistics, in the model's precision."""
        channels_first = rearrange(crops, "... h w c -> ... c h w")
        return channels_first.float().sub_(self.mean).div_(self.std).to(self.precision)

    def encode(self, crops: Tensor) -> TemplateMemory:
        """crops uint8 [B, 1 + K, T, T, 3], the original template first -> the memory that `track` reads."""
        return self.backbone.encode(self.normalise(crops))

    def track(self, crops: Tensor, memory: TemplateMemory, mark: Callable[[str], None] = ignore_mark) -> Prediction:
        """crops uint8 [B, S, S, 3], memory of the same B targets -> where and how sure.

        `mark(name)` is called once the work of a part is asked for: each stage where there are several, "backbone", "head".
        """
        prediction = self.predict(self.backbone(self.normalise(crops), memory, mark), memory.template_tokens)
        mark("head")
        return prediction

    def run_stage(self, number: int, maps: Tensor, layers: Sequence[KeyValue]) -> Tensor:
        """One stage of the backbone for the search region, by itself: for who runs the pass in parts.

        `maps`: crops uint8 [B, S, S, 3] for stage 0, else the maps of the stage before; `layers`: the memory of the stage's own
        blocks -> maps [B, C, H, W].
        """
        stage = self.backbone.stages[number]
        found: Tensor = stage(maps if number else self.normalise(maps), 1, self.backbone.search_positions, layers)[0]
        return found

    def predict(self, features: Tensor, template_tokens: Tensor) -> Prediction:
        """What the heads read out of features [B, C, H, W] and template_tokens [B, N, C]."""
        boxes = self.box_head(features).boxes
        scores = None
        if self.score_head is not None:
            scores = self.score_head(features, template_tokens, boxes).float().sigmoid()
        return Prediction(to_centre(boxes), scores)

    def forward(self, templates: Tensor, search: Tensor) -> JointOutput:
        """templates [B, 1 + K, 3, T, T] and search [B, 3, S, S], both normalised -> boxes, and what the score head needs."""
        memory = self.backbone.encode(templates)
        features = self.backbone(search, memory, ignore_mark)
        return JointOutput(self.box_head(features), features, memory.template_tokens)

    def score(self, features: Tensor, template_tokens: Tensor, boxes: Tensor) -> Tensor:
        """Logits [B] that the target is inside boxes [B, 4] (x1, y1, x2, y2 in shares of the crop); ValueError without a score head."""
        if self.score_head is None:
            raise ValueError(f"variant {self.config.name} has no score head")
        logits: Tensor = self.score_head(features, template_tokens, boxes)
        return logits


def to_centre(boxes: Tensor) -> Tensor:
    """x1, y1, x2, y2 -> centre x, centre y, width, height; [..., 4]."""
    corner, opposite = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(corner + opposite) / 2, opposite - corner], dim=-1)

"""A trained network that another one learns from: its heads, and the features that they read.

Heads that can read a box out of features already leave the backbone one thing to learn, and a target for every cell of the grid
teaches it more a pair than one box does. The idea is that of Chen et al., "Knowledge Distillation with the Reused Teacher Classifier"
(CVPR 2022).
"""

from pathlib import Path

import torch
from torch import Tensor

from model.checkpoint import load_model
from model.config import Family, ModelConfig
from model.layers import BATCH_NORM_EPS, ConvNorm
from model.mixformer import JointOutput, MixFormer
from training.initial import at_sizes
from training.recipe import RecipeError


class Teacher:
    """The network of a weights file, for crops of any size."""

    def __init__(self, path: Path, device: torch.device | str) -> None:
        """Raises CheckpointError for no weights, RecipeError for those of a network that cannot teach."""
        folded = load_model(path).model
        if folded.config.family is not Family.MIXVIT:
            raise RecipeError(f"{path}: {folded.config.name} cannot teach, only a network without BatchNorm in its backbone")
        self._path = path
        self._given = self._network = _unfolded(folded).to(device)

    def give_heads(self, student: MixFormer) -> None:
        """The student's heads become the teacher's. Raises RecipeError where the two networks do not fit each other."""
        given, needed = _shapes_of_heads(self._network.config), _shapes_of_heads(student.config)
        if given != needed:
            raise RecipeError(f"{self._path}: its heads have {given}, those of {student.config.name} {needed}")
        heads = {name: tensor for name, tensor in self._network.state_dict().items() if not name.startswith("backbone.")}
        student.load_state_dict(heads, strict=False)

    @torch.no_grad()
    def show(self, templates: Tensor, search: Tensor) -> JointOutput:
        """What the teacher makes of normalised templates [B, 1 + K, 3, T, T] and search regions [B, 3, S, S]."""
        config = self._network.config.with_sizes(templates.shape[-1], search.shape[-1])
        if config != self._network.config:
            self._network = at_sizes(self._given, config).eval().to(search.device)
        shown: JointOutput = self._network(templates, search)
        return shown


def unlikeness(output: JointOutput, shown: JointOutput) -> Tensor:
    """The share of the teacher's features and template tokens that the student's leave unexplained: 1 for their mere means."""
    features = _unexplained(output.features.movedim(1, -1), shown.features.movedim(1, -1))
    return features + _unexplained(output.template_tokens, shown.template_tokens)


def _unexplained(found: Tensor, wanted: Tensor) -> Tensor:
    """[..., C] both; channel by channel, for some are twenty times as large as others."""
    found, wanted = found.flatten(0, -2).float(), wanted.flatten(0, -2).float()
    return ((found - wanted).square().mean(0) / wanted.var(0).clamp(min=1e-6)).mean()


def _shapes_of_heads(config: ModelConfig) -> dict[str, object]:
    attention = config.stages[-1].heads if config.has_score_head else 0
    return {
        "stride": config.stride, "dim": config.dim, "corners": str(config.head), "channels": config.head_channels,
        "score attention": attention,
    }  # fmt: skip


def _unfolded(folded: MixFormer) -> MixFormer:
    """The same network with its BatchNorms, which change nothing as long as they are not trained."""
    network = MixFormer(folded.config).eval().requires_grad_(False)
    network.load_state_dict(folded.state_dict(), strict=False)
    for part in network.modules():
        if isinstance(part, ConvNorm):
            part.norm.get_buffer("running_var").fill_(1.0 - BATCH_NORM_EPS)
    return network

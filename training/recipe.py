"""A recipe: everything that decides what a training gives, in one TOML file."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from model.config import VARIANTS, Family, ModelConfig, UpdateRule
from training.pairs import PairSettings

Count = Annotated[int, msgspec.Meta(ge=1)]


class RecipeError(ValueError):
    """The recipe cannot be used; the message names the file and the entry."""


class Phase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One part of a training. `part`: all but the score head, or the score head alone (its second stage in the paper).

    Learning rates are those of the pretrained backbone and of the rest, at the top of the cosine; they warm up linearly over
    `warmup_steps` and end at `last_share` of their top. `absent`: the share of examples whose search region does not show the target;
    `mistakes`: of those that the tracker met on the training videos (`training/mistakes.py`), for the score head. `frozen_norms`:
    BatchNorm normalises by its running statistics, as it will when it tracks, and no longer by those of the batch.
    """

    part: Literal["box", "score"]
    steps: Count
    batch_size: Annotated[int, msgspec.Meta(ge=2)]
    template_size: int
    search_size: int
    backbone_rate: float = 1.5e-4
    head_rate: float = 1e-3
    warmup_steps: Count = 60
    last_share: float = 0.02
    ema_decay: float = 0.998
    absent: float = 0.0
    mistakes: float = 0.0
    frozen_norms: bool = False


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A training from its first to its last step. `pretrained`: whether the backbone starts from the ImageNet network.

    `teacher`: a weights file, by its path from the recipe's folder, of a network with heads of the same shapes. The heads begin as
    its; box phases train the backbone alone, and to give the teacher's features, too (`training/teacher.py`).
    """

    variant: str
    phases: Annotated[tuple[Phase, ...], msgspec.Meta(min_length=1)]
    pairs: PairSettings = PairSettings()
    update_rule: UpdateRule = UpdateRule()
    pretrained: bool = True
    teacher: str | None = None
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    weight_decay: float = 1e-4
    gradient_norm: float = 1.0
    l1_weight: float = 5.0
    giou_weight: float = 2.0
    corner_weight: float = 0.3
    teacher_weight: float = 5.0
    workers: Annotated[int, msgspec.Meta(ge=0)] = 1
    log_every: Count = 20
    checkpoint_every: Count = 100

    def config(self, phase: Phase) -> ModelConfig:
        """The network of a phase."""
        return VARIANTS[self.variant].with_sizes(phase.template_size, phase.search_size)


def read_recipe(path: Path) -> Recipe:
    """The recipe in `path`. Raises RecipeError where it is missing, misspelt or ends at other sizes than the variant's."""
    try:
        recipe = msgspec.toml.decode(path.read_bytes(), type=Recipe)
    except (OSError, msgspec.DecodeError, ValueError) as error:
        raise RecipeError(f"{path}: {error}") from error
    if recipe.variant not in VARIANTS:
        raise RecipeError(f"{path}: unknown variant {recipe.variant!r}")
    config, last = VARIANTS[recipe.variant], recipe.phases[-1]
    if recipe.pretrained and config.family is not Family.MIXVIT:
        raise RecipeError(f"{path}: pretrained = true, but the ImageNet network is a ViT and {config.name} is none")
    for number, phase in enumerate(recipe.phases):
        if (phase.mistakes or phase.absent) and phase.part == "box":
            raise RecipeError(
                f"{path}: phase {number} trains boxes and has mistakes = {phase.mistakes:g} and absent = {phase.absent:g}: "
                "they are for the score head"
            )
    if (last.template_size, last.search_size) != (config.template_size, config.search_size):
        sizes = (
            f"{last.template_size} and {last.search_size}, {config.name} needs {config.template_size} and {config.search_size}"
        )
        raise RecipeError(f"{path}: ends with crops of {sizes}")
    return recipe
